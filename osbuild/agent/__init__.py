"""What runs on the device, shipped as one zipapp (`osbuild.rootfs.agent_zipapp`): standard library only."""

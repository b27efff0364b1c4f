"""The edge agent, shipped as one zipapp (`osbuild.rootfs.agent_zipapp`). It needs only the standard library."""

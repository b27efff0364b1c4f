"""What runs on the device, shipped as one zipapp (`osbuild.agentapp`): standard library only."""

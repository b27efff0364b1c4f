"""The update server: devices, bundles and the updates that devices are told to install."""

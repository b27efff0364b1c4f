export DISTRO_NAME=debian
export DIB_RELEASE=${EDGE_SUITE}

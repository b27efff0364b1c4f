"""A data source of cloud-init that reads only the seed chosen by `edge-agent seed`. cloud.cfg selects it: `[Edge]`.

cloud-init's own NoCloud also reads the serial number (SMBIOS) and the kernel command line. Settings there, such as
`ds=nocloud;s=http://…`, would override the seed, and a URL would stop cloud-init, because there is no network yet.
"""

from cloudinit import sources, util
from cloudinit.sources import DataSourceNoCloud


class DataSourceEdge(DataSourceNoCloud.DataSourceNoCloud):  # type: ignore[misc]
    """NoCloud that reads only its seed folder."""

    def _get_data(self) -> bool:
        self.seed = self.seed_dirs[0]
        files = util.pathprefix2dict(self.seed, required=["user-data", "meta-data"], optional=["vendor-data"])
        self.metadata = util.load_yaml(files["meta-data"])
        self.userdata_raw, self.vendordata_raw = files["user-data"], files.get("vendor-data", "")
        self.dsmode = sources.DSMODE_LOCAL
        return True


def get_datasource_list(depends: list[str]) -> list[type]:
    """The data source, if cloud-init asks for one that works without a network."""
    return list(sources.list_from_depends(depends, [(DataSourceEdge, (sources.DEP_FILESYSTEM,))]))

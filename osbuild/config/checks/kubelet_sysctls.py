"""Checks the sysctls of a profile against those that the kubelet requires."""

from collections.abc import Callable

from osbuild.config.checks.kernel import sysctl_path
from osbuild.config.document import quote_text
from osbuild.config.profile import Profile
from osbuild.shared.errors import Error
from osbuild.shared.node_settings import NodeSettings

# With `protectKernelDefaults`, the kubelet does not start if one of these differs (kubernetes pkg/util/sysctl).
KUBELET_SYSCTLS = {
    "kernel/keys/root_maxbytes": 25000000,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
}

Where = Callable[..., str]


def check_kubelet_sysctls(profile: Profile, where: Where) -> None:
    """Raise `Error` for a sysctl with which the kubelet would not start."""
    settings = profile.kubernetes
    protected = NodeSettings(config=settings.config).flag("protect-kernel-defaults", default=True)
    if settings.role == "none" or not protected:
        return
    for name, value in profile.kernel.sysctls.items():
        required = KUBELET_SYSCTLS.get(sysctl_path(name.removeprefix("-")))
        if required is not None and str(value).strip() != str(required):
            message = f"found {value} for the sysctl {quote_text(name)}, with which the kubelet does not start"
            hint = f"write {required}, or `config: {{protect-kernel-defaults: false}}` in `kubernetes`"
            raise Error(message, where=where(f"kernel.sysctls.{name}"), hint=hint)

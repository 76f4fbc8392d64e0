"""Ray's token, without which nobody runs code on a cluster that asks for one."""

from __future__ import annotations

import logging
import os

TOKEN = "~/.ray/auth_token"  # noqa: S105 (where Ray keeps it)
ANSWER_S = 10.0


def use_token() -> bool:
    """Show this user's token from now on, unless `RAY_AUTH_MODE` says otherwise; False where there is none to show."""
    from ray._private.authentication import authentication_token_setup as setup

    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it warns that a token is used
    asked = setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    return asked and bool(setup.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def misfit(has_token: bool) -> str:
    """What is wrong, and what to do, where a cluster has refused what this process showed."""
    named = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else os.environ.get("RAY_AUTH_TOKEN_PATH")
    said = f"refuses the token in {named or TOKEN}" if has_token else "asks for a token, and there is none here"
    return f"the cluster {said}; put the one of its head ({TOKEN} there) into {TOKEN} here"


def refused(address: str) -> str | None:
    """What `misfit` says, where the Ray at an address refuses this process; `ray.init` would try for a minute.

    Args:
        address: as in `RAY_ADDRESS`. One where nothing answers is left to `ray.init`.
    """
    import grpc
    from ray._private.authentication.authentication_utils import is_token_auth_enabled
    from ray._private.grpc_utils import init_grpc_channel
    from ray._private.services import canonicalize_bootstrap_address
    from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    has_token = use_token()
    if is_token_auth_enabled() and not has_token:
        return misfit(has_token)
    try:
        with init_grpc_channel(canonicalize_bootstrap_address(address) or address) as channel:
            NodeInfoGcsServiceStub(channel).GetClusterId(GetClusterIdRequest(), timeout=ANSWER_S)
    except grpc.RpcError as error:
        return misfit(has_token) if error.code() == grpc.StatusCode.UNAUTHENTICATED else None
    except (ConnectionError, ValueError):  # `auto`, and no Ray here; or an address of another kind
        return None
    return None

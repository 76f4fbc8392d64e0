"""Ray's authentication token. A cluster with token authentication runs code only for clients that send it."""

from __future__ import annotations

import logging
import os

from advise_ray.errors import RayError, UsageError

TOKEN = "~/.ray/auth_token"  # noqa: S105 (a path, not a secret)
ANSWER_S = 10.0


def use_token() -> bool:
    """Send this user's token from now on, unless `RAY_AUTH_MODE` forbids it.

    Returns:
        Whether there is a token and it is sent.
    """
    from ray._private.authentication import authentication_token_setup as setup

    # Without this, Ray logs a warning whenever it uses a token.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    asked = setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    return asked and bool(setup.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def misfit(has_token: bool) -> str:
    """The error message for a cluster that refused this process: the reason and the remedy."""
    named = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else os.environ.get("RAY_AUTH_TOKEN_PATH")
    said = f"refuses the token in {named or TOKEN}" if has_token else "asks for a token, and this machine has none"
    return f"the cluster {said}; copy {TOKEN} from the cluster's head to {TOKEN} on this machine"


def check(address: str) -> None:
    """Check that a Ray answers and accepts this process. Without this check `ray.init` retries for minutes.

    Args:
        address: the value of `RAY_ADDRESS`. If it is no HOST:PORT, `ray.init` reports the error.

    Raises:
        UsageError: the cluster asks for a token, and this machine has none or a different one.
        RayError: no Ray answers there within ANSWER_S.
    """
    import grpc
    from ray._private.authentication.authentication_utils import is_token_auth_enabled
    from ray._private.grpc_utils import init_grpc_channel
    from ray._private.services import canonicalize_bootstrap_address
    from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    has_token = use_token()
    if is_token_auth_enabled() and not has_token:
        raise UsageError(f"RAY_ADDRESS {address}: {misfit(has_token)}")
    try:
        head = canonicalize_bootstrap_address(address)
    except (OSError, ValueError):
        return
    if head is None:  # `auto` without a Ray on this machine
        return
    try:
        with init_grpc_channel(head) as channel:
            answer = NodeInfoGcsServiceStub(channel).GetClusterId
            answer(GetClusterIdRequest(), timeout=ANSWER_S, wait_for_ready=True)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise UsageError(f"RAY_ADDRESS {address}: {misfit(has_token)}") from None
        where = head if head == address else f"{address} ({head})"
        raise RayError(
            f"RAY_ADDRESS {where}: no Ray answers there; start it, set RAY_ADDRESS to HOST:PORT of its head "
            "(usually port 6379), or unset it"
        ) from None

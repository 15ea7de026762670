# SPDX-License-Identifier: Apache-2.0
"""A projected service account token proves a node of a Kubernetes cluster.

1. The API server says whether the token counts, for our audience, and whose it is.
2. Its service account has to be allowed.
3. The pod that it is bound to has to live, with that uid and service account.
4. The node is the one that this pod is on.
"""

import re
from typing import Final

import msgspec

from issuer.errors import NodeRejectedError
from issuer.node import Challenge, NodeContext, NodeProof
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.kubernetes.client import UNREADABLE, KubernetesClient, KubernetesError
from spiffekit.daemon.kubernetes.objects import Node, Pod, TokenUser
from spiffekit.errors import SelectorError, SpiffeIdError
from spiffekit.selector import Selector

TYPE: Final = "k8s_psat"
MAX_PAYLOAD: Final = 64 * 1024  # bytes
ENDED: Final = {"Succeeded", "Failed"}  # phases of pods that run no more
_EXTRA: Final = "authentication.kubernetes.io/"
_ACCOUNT: Final = re.compile(r"[^:/]+:[^:/]+")
_USER: Final = re.compile(r"system:serviceaccount:([^:/]+):([^:/]+)")


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.k8s_psat.clusters.NAME]``; how it is reached is ``[kubernetes.NAME]``.

    Attributes:
        service_account_allow_list: The service accounts of attestors, each as "namespace:name".
        audience: Audiences, of which a token needs one.
        allowed_node_label_keys: The labels of nodes that become selectors.
        allowed_pod_label_keys: The labels of attestors' pods that become selectors.
        use_pod_uid: Name a node by the uid of its attestor's pod instead of its own.
    """

    service_account_allow_list: tuple[str, ...]
    audience: tuple[str, ...] = ("spire-server",)
    allowed_node_label_keys: tuple[str, ...] = ()
    allowed_pod_label_keys: tuple[str, ...] = ()
    use_pod_uid: bool = False


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.k8s_psat]``.

    Attributes:
        clusters: A table for each cluster, by the name that attestors give.
    """

    clusters: dict[str, Cluster]


class _Payload(msgspec.Struct, frozen=True):
    cluster: str
    token: str


class K8sPsatVerifier:
    """See the module."""

    def __init__(self, config: Config) -> None:
        self._clusters = config.clusters

    async def verify(self, payload: bytes, challenge: Challenge, context: NodeContext) -> NodeProof:
        """Check the token; there is no challenge."""
        del challenge
        if len(payload) > MAX_PAYLOAD:
            raise NodeRejectedError("payload is too large")
        try:
            sent = msgspec.json.decode(payload, type=_Payload)
        except UNREADABLE as error:
            raise NodeRejectedError("payload is malformed") from error
        if (rules := self._clusters.get(sent.cluster)) is None:
            raise NodeRejectedError(f"cluster {sent.cluster[:80]!r} is not configured")
        client = context.cluster(sent.cluster)
        try:
            user = await _review(client, sent.token, rules)  # (1)
            account = _account(user, rules)  # (2)
            pod = await _pod(client, user, account)  # (3)
            node = await client.node(pod.spec.node_name)  # (4)
        except KubernetesError as error:
            raise NodeRejectedError(
                f"cluster {sent.cluster!r} cannot vouch for the token: {error}"
            ) from error
        if _extra(user, "node-uid") not in ("", node.metadata.uid):
            raise NodeRejectedError("token is bound to another node")
        uid = pod.metadata.uid if rules.use_pod_uid else node.metadata.uid
        try:
            node_id = context.node_id(f"/{TYPE}/{sent.cluster}/{uid}")
            return NodeProof(node_id, _selectors(sent.cluster, rules, pod, node), can_reattest=True)
        except (SelectorError, SpiffeIdError) as error:
            raise NodeRejectedError(f"cluster {sent.cluster!r} has a node that cannot be named") from error


async def _review(client: KubernetesClient, token: str, rules: Cluster) -> TokenUser:
    verdict = await client.review(token, rules.audience)
    if not verdict.authenticated or verdict.error:
        raise NodeRejectedError("token is not valid, for this audience, in its cluster")
    # An API server that knows no audiences says yes to its own; then it names none.
    if not set(verdict.audiences) & set(rules.audience):
        raise NodeRejectedError("token is for another audience")
    return verdict.user


def _account(user: TokenUser, rules: Cluster) -> tuple[str, str]:
    """Return namespace and name of the token's service account."""
    match = _USER.fullmatch(user.username)
    if match is None:
        raise NodeRejectedError("token is of no service account")
    namespace, name = match.groups()
    if f"{namespace}:{name}" not in rules.service_account_allow_list:
        raise NodeRejectedError(f"service account {f'{namespace}:{name}'[:200]!r} is not allowed")
    return namespace, name


async def _pod(client: KubernetesClient, user: TokenUser, account: tuple[str, str]) -> Pod:
    """Return the pod that a token is bound to."""
    name, uid = _extra(user, "pod-name"), _extra(user, "pod-uid")
    if not name or not uid:
        raise NodeRejectedError("token is not bound to a pod")
    pod = await client.pod(account[0], name)
    if pod.metadata.uid != uid:
        raise NodeRejectedError("token is bound to an earlier pod of that name")
    if pod.spec.service_account_name != account[1]:
        raise NodeRejectedError("token is of another service account than its pod's")
    if pod.status.phase in ENDED:
        raise NodeRejectedError("token is bound to a pod that has ended")
    if not pod.spec.node_name or _extra(user, "node-name") not in ("", pod.spec.node_name):
        raise NodeRejectedError("token is bound to another node, or its pod is on none")
    return pod


def _extra(user: TokenUser, name: str) -> str:
    """Return what the API server adds about a token; "" unless it is one value."""
    values = user.extra.get(_EXTRA + name, ())
    return values[0] if len(values) == 1 else ""


def _selectors(cluster: str, rules: Cluster, pod: Pod, node: Node) -> frozenset[Selector]:
    values = [
        f"cluster:{cluster}",
        f"agent_ns:{pod.metadata.namespace}",
        f"agent_sa:{pod.spec.service_account_name}",
        f"agent_pod_name:{pod.metadata.name}",
        f"agent_pod_uid:{pod.metadata.uid}",
        f"agent_node_name:{node.metadata.name}",
        f"agent_node_uid:{node.metadata.uid}",
    ]
    if pod.status.host_ip:
        values.append(f"agent_node_ip:{pod.status.host_ip}")
    for kind, allowed, labels in (
        ("agent_node_label", rules.allowed_node_label_keys, node.metadata.labels),
        ("agent_pod_label", rules.allowed_pod_label_keys, pod.metadata.labels),
    ):
        values += [f"{kind}:{key}:{labels[key]}" for key in allowed if key in labels]
    return frozenset(Selector(TYPE, value) for value in values)


def create(config: Config) -> K8sPsatVerifier:
    """Make the verifier of a configuration table."""
    problems = []
    for name, cluster in config.clusters.items():
        if not cluster.service_account_allow_list:
            problems.append(f"clusters.{name}.service_account_allow_list: nobody could attest")
        problems += [
            f"clusters.{name}.service_account_allow_list: {account!r} is not namespace:name"
            for account in cluster.service_account_allow_list
            if not _ACCOUNT.fullmatch(account)
        ]
        if not cluster.audience:
            problems.append(f"clusters.{name}.audience: at least one is needed")
    if problems:
        raise ConfigError(*problems)
    return K8sPsatVerifier(config)

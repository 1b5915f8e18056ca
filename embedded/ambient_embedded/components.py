"""What runs on each node of a lab: the command line and configuration of every component.

Flags and fields are those of Kubernetes v1.36 (`<program> --help`, KubeletConfiguration v1beta1,
KubeProxyConfiguration v1alpha1) and containerd 2 (`containerd config default`, version 3).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from .topology import CLUSTER_CIDR, PREFIX_LENGTH, Lab, Node

BIN = "/opt/ambient-lab/bin"
KUBERNETES = "/etc/kubernetes"
PKI = f"{KUBERNETES}/pki"
API_PORT = 6443
SERVICE_CIDR, SERVICE_IP, DNS_IP = "10.96.0.0/16", "10.96.0.1", "10.96.0.10"
NODE_PORTS = "30000-32767"
# Not *.log: those are the components' own words.
AUDIT_LOG = "/var/log/ambient-lab/audit.jsonl"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"


def api_address(lab: Lab) -> str:
    """Where every node, the control plane too, reaches the API."""
    return f"{lab.control_plane.address}:{API_PORT}"


def etcd() -> list[str]:
    return [
        f"{BIN}/etcd", "--name=default", "--data-dir=/var/lib/etcd", "--log-level=warn",
        "--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379",
        "--listen-peer-urls=https://127.0.0.1:2380", "--initial-advertise-peer-urls=https://127.0.0.1:2380",
        "--initial-cluster=default=https://127.0.0.1:2380", "--client-cert-auth", "--peer-client-cert-auth",
        f"--cert-file={PKI}/etcd.crt", f"--key-file={PKI}/etcd.key", f"--trusted-ca-file={PKI}/ca.crt",
        f"--peer-cert-file={PKI}/etcd.crt", f"--peer-key-file={PKI}/etcd.key", f"--peer-trusted-ca-file={PKI}/ca.crt",
    ]  # fmt: skip


def apiserver(node: Node) -> list[str]:
    return [
        f"{BIN}/kube-apiserver", f"--advertise-address={node.address}", f"--secure-port={API_PORT}",
        "--etcd-servers=https://127.0.0.1:2379", f"--etcd-cafile={PKI}/ca.crt",
        f"--etcd-certfile={PKI}/apiserver-etcd-client.crt", f"--etcd-keyfile={PKI}/apiserver-etcd-client.key",
        f"--tls-cert-file={PKI}/apiserver.crt", f"--tls-private-key-file={PKI}/apiserver.key",
        f"--client-ca-file={PKI}/ca.crt", "--anonymous-auth=false", "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
        f"--kubelet-certificate-authority={PKI}/ca.crt", "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={PKI}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={PKI}/apiserver-kubelet-client.key",
        f"--requestheader-client-ca-file={PKI}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client", "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={PKI}/front-proxy-client.crt",
        f"--proxy-client-key-file={PKI}/front-proxy-client.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={PKI}/service-account.pub",
        f"--service-account-signing-key-file={PKI}/service-account.key",
        f"--service-cluster-ip-range={SERVICE_CIDR}", f"--service-node-port-range={NODE_PORTS}",
        f"--audit-policy-file={KUBERNETES}/audit-policy.yaml", f"--audit-log-path={AUDIT_LOG}",
        "--audit-log-maxsize=20", "--audit-log-maxbackup=1",
    ]  # fmt: skip


def audit_policy() -> dict[str, Any]:
    """What users did (audit.k8s.io/v1; the first rule that fits decides), without reads and the components' own."""
    users = [f"system:{name}" for name in ("apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")]
    groups = ["system:nodes", *(f"system:serviceaccounts:{name}" for name in ("kube-system", "istio-system"))]
    # A way into a pod is a GET too; of it and of a pod all is kept, of the rest (Secrets) no content.
    inside = [f"pods/{name}" for name in ("exec", "attach", "portforward", "proxy", "log")]
    rules: list[dict[str, Any]] = [
        {"level": "None", "users": users},
        {"level": "None", "userGroups": groups},
        {"level": "RequestResponse", "resources": [{"group": "", "resources": inside}]},
        {"level": "None", "verbs": ["get", "list", "watch"]},
        {"level": "Request", "resources": [{"group": "", "resources": ["pods", "pods/ephemeralcontainers"]}]},
        {"level": "Metadata"},
    ]
    return {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}


def controller_manager() -> list[str]:
    kubeconfig = f"{KUBERNETES}/controller-manager.conf"
    # At the default rate it spends its first four seconds waiting to ask for its controllers' tokens.
    rate = ["--kube-api-qps=200", "--kube-api-burst=400"]
    return [
        f"{BIN}/kube-controller-manager", f"--kubeconfig={kubeconfig}", "--leader-elect=false",
        f"--authentication-kubeconfig={kubeconfig}", f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1", f"--root-ca-file={PKI}/ca.crt", f"--client-ca-file={PKI}/ca.crt",
        f"--requestheader-client-ca-file={PKI}/front-proxy-ca.crt", "--use-service-account-credentials",
        f"--service-account-private-key-file={PKI}/service-account.key",
        f"--cluster-signing-cert-file={PKI}/ca.crt", f"--cluster-signing-key-file={PKI}/ca.key",
        # No --allocate-node-cidrs: the nodes bring theirs along, see node_object.
        *rate,
    ]  # fmt: skip


def scheduler() -> list[str]:
    kubeconfig = f"{KUBERNETES}/scheduler.conf"
    return [
        f"{BIN}/kube-scheduler", f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1",
        f"--authentication-kubeconfig={kubeconfig}", f"--authorization-kubeconfig={kubeconfig}",
    ]  # fmt: skip


def kubelet(node: Node) -> list[str]:
    return [
        f"{BIN}/kubelet", f"--config={KUBERNETES}/kubelet.yaml", f"--kubeconfig={KUBERNETES}/kubelet.conf",
        f"--hostname-override={node.name}", f"--node-ip={node.address}",
    ]  # fmt: skip


def containerd() -> list[str]:
    return [f"{BIN}/containerd", "--config=/etc/containerd/config.toml"]


def kube_proxy() -> list[str]:
    return [f"{BIN}/kube-proxy", f"--config={KUBERNETES}/kube-proxy.yaml"]


def import_images() -> list[str]:
    """A one-time job: hand the OCI layout to containerd, unless it holds these images already."""
    images, mark = "/opt/ambient-lab/images", "/var/lib/containerd/ambient-lab-images"
    script = (
        f"cmp -s {images}/index.json {mark} || "
        f"{{ tar -C {images} -cf - . | {BIN}/ctr -a {CONTAINERD_SOCKET} -n k8s.io images import --local - "
        f"&& cp {images}/index.json {mark}; }}"
    )
    return ["/bin/bash", "-o", "pipefail", "-c", script]


def register_nodes() -> list[str]:
    """A one-time job: what a kubelet may not say of its own node (roles, taints), and its pod CIDR."""
    return [
        f"{BIN}/kubectl", f"--kubeconfig={KUBERNETES}/admin.conf", "--cache-dir=/run/kubectl", "apply", "--server-side",
        "--force-conflicts", "--validate=false", f"--filename={KUBERNETES}/nodes.json",
    ]  # fmt: skip


def components(lab: Lab, node: Node) -> list[dict[str, Any]]:
    """The supervisor's list of components for a node."""
    # Whoever asks an API that is not ready is forbidden at first and asks again only after a pause.
    api, runtime = f"ready:{api_address(lab)}", f"unix:{CONTAINERD_SOCKET}"
    registered = ["done:register-nodes"] if node.is_control_plane else []
    every_node: list[dict[str, Any]] = [
        {"name": "containerd", "argv": containerd()},
        {"name": "import-images", "argv": import_images(), "after": [runtime], "once": True},
        {"name": "kube-proxy", "argv": kube_proxy(), "after": [api]},
        {"name": "kubelet", "argv": kubelet(node), "after": [api, "done:import-images", *registered]},
    ]
    if not node.is_control_plane:
        return every_node
    return [
        {"name": "etcd", "argv": etcd()},
        {"name": "kube-apiserver", "argv": apiserver(node), "after": ["tcp:2379"]},
        {"name": "register-nodes", "argv": register_nodes(), "after": [api], "once": True},
        {"name": "kube-controller-manager", "argv": controller_manager(), "after": [api]},
        {"name": "kube-scheduler", "argv": scheduler(), "after": [api]},
        *every_node,
    ]


def node_object(lab: Lab, node: Node) -> dict[str, Any]:
    """What of a Node object is the lab's to say; as with kind a control plane that has workers takes no pods."""
    role = f"node-role.kubernetes.io/{node.role}"
    spec: dict[str, Any] = {"podCIDR": node.pod_cidr, "podCIDRs": [node.pod_cidr]}
    if node.is_control_plane and lab.workers:
        spec["taints"] = [{"key": role, "effect": "NoSchedule"}]
    labels = {role: ""} if node.is_control_plane else {}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels}, "spec": spec}


def kubelet_configuration(node: Node) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{PKI}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{PKI}/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{PKI}/kubelet-server.key",
        "address": node.address,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [DNS_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{KUBERNETES}/resolv.conf",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        # The images cannot be pulled again and the disk is the user's: never evict, never collect them.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        # kubelet's first probe of a container can come too early for itself; a sync of the pod asks again.
        "syncFrequency": "1s",
        "nodeStatusUpdateFrequency": "5s",
        # Left out it would be as often: 17,280 times a day into etcd, though nothing has changed.
        "nodeStatusReportFrequency": "5m",
    }


def kube_proxy_configuration(node: Node) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": "0.0.0.0",
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clientConnection": {"kubeconfig": f"{KUBERNETES}/kube-proxy.conf"},
        "clusterCIDR": CLUSTER_CIDR,
        "hostnameOverride": node.name,
        "mode": "iptables",
        "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
        # The connection-tracking limits are the whole machine's: leave them as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
    }


def containerd_configuration(pause_image: str) -> str:
    return f"""version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{pause_image}"
[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE a process cannot lower its OOM score.
  restrict_oom_score_adj = true
  # Nobody reads these statistics: kubelet has its own. By default every shim is asked far more often.
  stats_collect_period = "60s"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = "/usr/sbin/runc"
        SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
"""


def cni_configuration(node: Node) -> dict[str, Any]:
    """Pods are routed, not bridged (ptp): traffic to a Service then always crosses the node's conntrack."""
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni-ipam",
                    "ranges": [[{"subnet": node.pod_cidr}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def supervisor_specification(lab: Lab, node: Node) -> dict[str, Any]:
    return {
        "hostname": node.name,
        "address": f"{node.address}/{PREFIX_LENGTH}",
        # Services need a route before they are translated; anything outside the lab is refused at once.
        "routes": [
            ["route", "add", SERVICE_CIDR, "dev", "eth0", "src", node.address],
            *(["route", "add", other.pod_cidr, "via", other.address] for other in lab.nodes if other != node),
            ["route", "add", "unreachable", "default"],
        ],
        "components": components(lab, node),
    }


def files(lab: Lab, node: Node) -> dict[str, str]:
    """Files to lay into a node's root, by path."""
    return {
        "etc/ambient-lab/node.json": json.dumps(supervisor_specification(lab, node), indent=1),
        "etc/containerd/config.toml": containerd_configuration(lab.pause_image),
        "etc/cni/net.d/10-pods.conflist": json.dumps(cni_configuration(node), indent=1),
        "etc/hosts": "127.0.0.1 localhost\n" + "".join(f"{one.address} {one.name}\n" for one in lab.nodes),
        "etc/resolv.conf": f"nameserver {DNS_IP}\n",
        "etc/machine-id": hashlib.md5(node.cgroup.encode(), usedforsecurity=False).hexdigest() + "\n",
        "etc/hostname": f"{node.name}\n",
    }


def kubernetes_files(lab: Lab, node: Node) -> dict[str, str]:
    """Configuration below ``/etc/kubernetes`` of a node, by name (JSON is YAML)."""
    every_node = {
        "kubelet.yaml": json.dumps(kubelet_configuration(node), indent=1),
        "kube-proxy.yaml": json.dumps(kube_proxy_configuration(node), indent=1),
        "resolv.conf": "# The lab has no name server outside the cluster.\n",
    }
    if not node.is_control_plane:
        return every_node
    nodes = {"apiVersion": "v1", "kind": "List", "items": [node_object(lab, one) for one in lab.nodes]}
    return {
        **every_node,
        "audit-policy.yaml": json.dumps(audit_policy(), indent=1),
        "nodes.json": json.dumps(nodes, indent=1),
    }

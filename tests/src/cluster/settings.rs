//! Configuration files of the node's components, as text. Pure but for `write`.

use serde_json::{Value, json};

use super::error::Result;
use super::network::Addresses;
use super::options::{Layout, NODE_BIN, Options, in_node};
use super::sandbox;

/// The domain below which every name is the host's end of the pair (`git.host.test`, …).
pub const HOST_DOMAIN: &str = "host.test";

/// Writes `config/*`, and `certs.d`, into the state directory.
pub(crate) fn write(
    layout: &Layout,
    addresses: Addresses,
    key: &str,
    options: &Options,
) -> Result<()> {
    let config = layout.state.join("config");
    fs_err::create_dir_all(config.join("cni"))?;
    fs_err::create_dir_all(layout.certs_d())?;
    let text = |value: Value| format!("{value:#}\n");
    for (file, content) in [
        ("audit.yaml", text(audit_policy())),
        ("containerd.toml", containerd()),
        ("cni/10-coopery.conflist", text(cni(addresses))),
        ("kubelet.yaml", text(kubelet(addresses, key, options))),
        ("Corefile", corefile(addresses)),
    ] {
        fs_err::write(config.join(file), content)?;
    }
    Ok(())
}

/// Every write is logged, without its body; reads are not.
fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "omitManagedFields": true,
        "rules": [
            {"level": "None", "verbs": ["get", "list", "watch"]},
            {"level": "Metadata"},
        ],
    })
}

/// containerd with the CRI plugin, our runc, and registries told from `certs.d`.
fn containerd() -> String {
    let certs_d = in_node("certs.d");
    let cni = in_node("config/cni");
    let pause = sandbox::REFERENCE;
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.native", "io.containerd.differ.v1.erofs", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.images".registry]
config_path = "{certs_d}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{NODE_BIN}"]
conf_dir = "{cni}"

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{NODE_BIN}/runc"
SystemdCgroup = false
"#
    )
}

/// A routed veth pair per pod: unlike a bridge it needs no `br_netfilter` for Services.
fn cni(addresses: Addresses) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "coopery",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": addresses.pods()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn kubelet(addresses: Addresses, key: &str, options: &Options) -> Value {
    let off = "0%";
    let inodes = if options.volumes_disk.is_some() {
        "50%"
    } else {
        off
    };
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": addresses.node(),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": in_node("pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": in_node("pki/kubelet.crt"),
        "tlsPrivateKeyFile": in_node("pki/kubelet.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{key}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDomain": "cluster.local",
        "clusterDNS": [addresses.node()],
        "resolvConf": "",
        "maxPods": 110,
        "podPidsLimit": 8192,
        "oomScoreAdj": 0,
        "localStorageCapacityIsolation": options.storage_isolation,
        // The disk is shared with the machine: how full it is says nothing about the pods.
        "evictionHard": {
            "memory.available": off, "nodefs.available": off, "nodefs.inodesFree": inodes,
            "imagefs.available": off, "imagefs.inodesFree": off,
        },
        "evictionPressureTransitionPeriod": "1s",
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "serializeImagePulls": false,
        // Else an imported image must be pulled as soon as the same bytes were pulled by another name.
        "imagePullCredentialsVerificationPolicy": "NeverVerify",
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "nodeStatusUpdateFrequency": "5s",
        "volumeStatsAggPeriod": "10s",
        "logging": {"verbosity": 1},
    })
}

/// Names of the cluster, names of the host, and nothing else: what is unknown is told at once.
fn corefile(addresses: Addresses) -> String {
    let (node, host) = (addresses.node(), addresses.host());
    let kubeconfig = in_node("kubeconfigs/coredns");
    format!(
        r#"cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {{
    bind {node}
    errors
    ready {node}:8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 1
    }}
}}
{HOST_DOMAIN}:53 {{
    bind {node}
    errors
    template IN A {{
        answer "{{{{ .Name }}}} 5 IN A {host}"
    }}
    template IN AAAA {{
        rcode NOERROR
    }}
}}
.:53 {{
    bind {node}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cluster_has_its_own_cgroups_and_addresses() {
        let options = Options::new("main");
        let (first, second) = (
            kubelet(Addresses::new(0), "coopery0", &options),
            kubelet(Addresses::new(1), "coopery1", &options),
        );
        assert_eq!(first["cgroupRoot"], "/coopery0");
        for field in ["cgroupRoot", "clusterDNS", "address"] {
            assert_ne!(first[field], second[field], "{field}");
        }
    }

    #[test]
    fn names_of_the_host_lead_to_the_pair() {
        let text = corefile(Addresses::new(2));
        assert!(
            text.contains("answer \"{{ .Name }} 5 IN A 10.130.255.1\""),
            "{text}"
        );
        assert!(text.contains("bind 10.130.255.2\n"), "{text}");
    }

    #[test]
    fn reads_are_not_audited() {
        assert_eq!(audit_policy()["rules"][0]["level"], "None");
    }
}

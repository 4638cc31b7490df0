//! The programs of a cluster: their arguments, in the order of starting, their logs and their deaths.

use std::process::{Child, Stdio};

use super::error::{Error, Result};
use super::namespace::{Node, last_lines, status_text};
use super::network::Addresses;
use super::options::{Layout, NODE_NAME, in_node};

/// Programs that must be built before a cluster can start.
pub(crate) const PROGRAMS: [&str; 19] = [
    "pause",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "ptp",
    "loopback",
    "host-local",
    "portmap",
    "coredns",
    "registry",
    "helm",
];

/// Started at once.
pub(crate) const FIRST: [&str; 3] = ["etcd", "containerd", "kube-apiserver"];
/// Started when the API server answers.
pub(crate) const SECOND: [&str; 5] = [
    "volumes",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "coredns",
];
/// Started when containerd holds the sandbox image, too.
pub(crate) const THIRD: [&str; 1] = ["kubelet"];

/// The program of a component: nearly always of the same name.
fn program(component: &str) -> &str {
    match component {
        // Opens the volumes of the host path provisioner to pods that are not root.
        "volumes" => "pause",
        other => other,
    }
}

/// Arguments of a component.
pub(crate) fn arguments(component: &str, addresses: Addresses) -> Vec<String> {
    let state = in_node;
    let kubeconfig = |name: &str| state(&format!("kubeconfigs/{name}"));
    let (node, services, pods) = (addresses.node(), addresses.services(), addresses.pods());
    match component {
        "etcd" => vec![
            "--name=node".into(),
            "--data-dir=/var/lib/etcd".into(),
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
            "--listen-client-urls=http://127.0.0.1:2379".into(),
            "--advertise-client-urls=http://127.0.0.1:2379".into(),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-advertise-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-cluster=node=http://127.0.0.1:2380".into(),
        ],
        "containerd" => vec![
            "--config".into(),
            state("config/containerd.toml"),
            "--log-level=info".into(),
        ],
        "kube-apiserver" => api_server_arguments(addresses),
        "kube-controller-manager" => vec![
            format!("--kubeconfig={}", kubeconfig("controller-manager")),
            format!(
                "--authentication-kubeconfig={}",
                kubeconfig("controller-manager")
            ),
            format!(
                "--authorization-kubeconfig={}",
                kubeconfig("controller-manager")
            ),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
            "--use-service-account-credentials=true".into(),
            format!("--service-account-private-key-file={}", state("pki/sa.key")),
            format!("--root-ca-file={}", state("pki/ca.crt")),
            format!("--cluster-signing-cert-file={}", state("pki/ca.crt")),
            format!("--cluster-signing-key-file={}", state("pki/ca.key")),
            format!("--service-cluster-ip-range={services}"),
            "--enable-hostpath-provisioner=true".into(),
        ],
        "kube-scheduler" => vec![
            format!("--kubeconfig={}", kubeconfig("scheduler")),
            format!("--authentication-kubeconfig={}", kubeconfig("scheduler")),
            format!("--authorization-kubeconfig={}", kubeconfig("scheduler")),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
        ],
        "kube-proxy" => vec![
            format!("--kubeconfig={}", kubeconfig("proxy")),
            format!("--hostname-override={NODE_NAME}"),
            format!("--bind-address={node}"),
            format!("--cluster-cidr={pods}"),
            "--proxy-mode=iptables".into(),
            "--iptables-min-sync-period=100ms".into(),
            // The limits are the machine's, and cannot be written from a network namespace.
            "--conntrack-max-per-core=0".into(),
            "--conntrack-min=0".into(),
            "--conntrack-tcp-timeout-established=0s".into(),
            "--conntrack-tcp-timeout-close-wait=0s".into(),
            "--oom-score-adj=0".into(),
        ],
        "volumes" => vec!["volumes".into(), "/tmp/hostpath_pv".into()],
        "coredns" => vec!["-conf".into(), state("config/Corefile")],
        "kubelet" => vec![
            format!("--config={}", state("config/kubelet.yaml")),
            format!("--kubeconfig={}", kubeconfig("kubelet")),
            format!("--hostname-override={NODE_NAME}"),
            format!("--node-ip={node}"),
        ],
        _ => Vec::new(),
    }
}

fn api_server_arguments(addresses: Addresses) -> Vec<String> {
    let state = in_node;
    let (node, services) = (addresses.node(), addresses.services());
    vec![
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--advertise-address={node}"),
        "--bind-address=0.0.0.0".into(),
        "--secure-port=6443".into(),
        format!("--tls-cert-file={}", state("pki/apiserver.crt")),
        format!("--tls-private-key-file={}", state("pki/apiserver.key")),
        format!("--client-ca-file={}", state("pki/ca.crt")),
        format!("--token-auth-file={}", state("pki/tokens.csv")),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction,PodSecurity".into(),
        "--allow-privileged=true".into(),
        format!("--service-cluster-ip-range={services}"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={}", state("pki/sa.pub")),
        format!("--service-account-signing-key-file={}", state("pki/sa.key")),
        format!("--kubelet-certificate-authority={}", state("pki/ca.crt")),
        format!(
            "--kubelet-client-certificate={}",
            state("pki/kubelet-client.crt")
        ),
        format!("--kubelet-client-key={}", state("pki/kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        format!("--requestheader-client-ca-file={}", state("pki/ca.crt")),
        "--requestheader-allowed-names=front-proxy-client".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        format!("--audit-policy-file={}", state("config/audit.yaml")),
        format!("--audit-log-path={}", state("logs/audit.log")),
        "--audit-log-maxsize=1000".into(),
        "--audit-log-mode=blocking".into(),
    ]
}

/// The components that run.
#[derive(Debug, Default)]
pub(crate) struct Components {
    running: Vec<(&'static str, Child)>,
}

impl Components {
    /// Starts components; their output goes to `logs/<component>.log`.
    pub(crate) fn start(
        &mut self,
        names: &[&'static str],
        node: Node,
        layout: &Layout,
        addresses: Addresses,
    ) -> Result<()> {
        for &name in names {
            let log = fs_err::File::create(layout.log(name))?.into_parts().0;
            let mut command = node.built(program(name), &arguments(name, addresses));
            command
                .stdout(Stdio::from(log.try_clone()?))
                .stderr(Stdio::from(log));
            self.running.push((name, command.spawn()?));
        }
        Ok(())
    }

    /// An error that shows the log of a component that has ended, if one has.
    pub(crate) fn check(&mut self, layout: &Layout) -> Result<()> {
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                return Err(Error::Died {
                    component: (*name).to_owned(),
                    status: status_text(status),
                    log: layout.log(name),
                    tail: tail(layout, name, 30),
                });
            }
        }
        Ok(())
    }

    /// The last lines of every log, for a message about no component in particular.
    pub(crate) fn tails(&self, layout: &Layout) -> String {
        let tails = self.running.iter().map(|(name, _)| {
            format!(
                "--- {name}
{}",
                tail(layout, name, 8)
            )
        });
        tails.collect::<Vec<_>>().join(
            "
",
        )
    }

    /// Collects the processes after the namespaces have ended.
    pub(crate) fn wait(&mut self) -> Result<()> {
        for (_, child) in &mut self.running {
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Components {
    /// Those that have ended leave no zombies; those of a detached cluster run on.
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.try_wait();
        }
    }
}

/// The last lines of a component's log.
fn tail(layout: &Layout, component: &str, lines: usize) -> String {
    let bytes = fs_err::read(layout.log(component)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    last_lines(&text, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_has_arguments_and_a_program() {
        for name in FIRST.iter().chain(&SECOND).chain(&THIRD) {
            assert!(PROGRAMS.contains(&program(name)), "{name}");
            assert!(!arguments(name, Addresses::new(0)).is_empty(), "{name}");
        }
    }

    #[test]
    fn no_argument_names_a_place_of_the_host() {
        for name in FIRST.iter().chain(&SECOND).chain(&THIRD) {
            for argument in arguments(name, Addresses::new(0)) {
                let value = argument
                    .split_once('=')
                    .map_or(argument.as_str(), |(_, value)| value);
                assert!(
                    !value.starts_with('/')
                        || value.starts_with("/run/coopery/")
                        || value.starts_with("/var/lib/")
                        || value.starts_with("/tmp/"),
                    "{name} {argument}"
                );
            }
        }
    }
}

//! The cluster's certificate authority and what it signs, the static tokens of the components, and kubeconfig files that
//! hold one each.

use rcgen::KeyPair;
use serde_json::json;

use super::error::Result;
use super::network::Addresses;
use super::options::{Layout, NODE_NAME};
use crate::certificate::Authority;

/// Who may speak to the API server: kubeconfig name, user, groups.
const IDENTITIES: [(&str, &str, &str); 6] = [
    ("admin", "admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("kubelet", "system:node:node", "system:nodes"),
    ("proxy", "system:kube-proxy", ""),
    ("coredns", "system:coredns", ""),
];

/// Writes `pki/*` and `kubeconfig*` into the state directory.
pub(crate) fn write(layout: &Layout, addresses: Addresses) -> Result<()> {
    let pki = layout.state.join("pki");
    fs_err::create_dir_all(&pki)?;
    let authority = Authority::new(&format!("coopery cluster {}", layout.name))?;
    fs_err::write(pki.join("ca.crt"), &authority.certificate)?;
    fs_err::write(pki.join("ca.key"), authority.key())?;

    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    let mut serving: Vec<String> = names.map(str::to_owned).to_vec();
    serving.extend([
        addresses.api_service().to_string(),
        addresses.node().to_string(),
        "127.0.0.1".to_owned(),
    ]);
    let kubelet = vec![NODE_NAME.to_owned(), addresses.node().to_string()];
    let masters = Some("system:masters");
    for (file, name, group, subjects) in [
        ("apiserver", "kube-apiserver", None, serving),
        ("kubelet", NODE_NAME, None, kubelet),
        (
            "kubelet-client",
            "kube-apiserver-kubelet-client",
            masters,
            Vec::new(),
        ),
    ] {
        authority.issue(name, group, subjects)?.write(&pki, file)?;
    }

    let accounts = KeyPair::generate()?;
    fs_err::write(pki.join("sa.key"), accounts.serialize_pem())?;
    fs_err::write(pki.join("sa.pub"), accounts.public_key_pem())?;

    let mut tokens = String::new();
    let server = format!("https://{}:6443", addresses.node());
    fs_err::create_dir_all(layout.state.join("kubeconfigs"))?;
    for (name, user, groups) in IDENTITIES {
        let token = token()?;
        tokens.push_str(&token_line(&token, user, groups));
        let path = if name == "admin" {
            layout.kubeconfig()
        } else {
            layout.state.join("kubeconfigs").join(name)
        };
        fs_err::write(
            path,
            kubeconfig(&layout.name, &server, &authority.certificate, &token),
        )?;
    }
    fs_err::write(pki.join("tokens.csv"), tokens)?;
    Ok(())
}

/// One line of the API server's token file: token, user, uid, groups.
fn token_line(token: &str, user: &str, groups: &str) -> String {
    if groups.is_empty() {
        format!("{token},{user},{user}\n")
    } else {
        format!("{token},{user},{user},\"{groups}\"\n")
    }
}

/// 32 hexadecimal digits that nobody can guess.
fn token() -> Result<String> {
    let mut bytes = [0_u8; 16];
    std::io::Read::read_exact(&mut fs_err::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(hex::encode(bytes))
}

/// A kubeconfig of one context. JSON is YAML.
fn kubeconfig(cluster: &str, server: &str, authority: &str, token: &str) -> String {
    use base64::Engine as _;
    let data = base64::engine::general_purpose::STANDARD.encode(authority);
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": cluster,
        "clusters": [{"name": cluster, "cluster": {"server": server, "certificate-authority-data": data}}],
        "users": [{"name": cluster, "user": {"token": token}}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
    });
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_components_name_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let layout = crate::cluster::Options {
            cache: directory.path().into(),
            ..crate::cluster::Options::new("main")
        }
        .layout()
        .unwrap();
        fs_err::create_dir_all(&layout.state).unwrap();
        write(&layout, Addresses::new(3)).unwrap();
        for file in [
            "ca.crt",
            "ca.key",
            "apiserver.crt",
            "kubelet.key",
            "kubelet-client.crt",
            "sa.key",
            "sa.pub",
        ] {
            assert!(
                fs_err::read_to_string(layout.state.join("pki").join(file))
                    .unwrap()
                    .starts_with("-----BEGIN "),
                "{file}"
            );
        }
        let tokens = fs_err::read_to_string(layout.state.join("pki/tokens.csv")).unwrap();
        assert_eq!(tokens.lines().count(), IDENTITIES.len());
        let config: serde_json::Value =
            serde_json::from_str(&fs_err::read_to_string(layout.kubeconfig()).unwrap()).unwrap();
        assert_eq!(
            config["clusters"][0]["cluster"]["server"],
            "https://10.131.255.2:6443"
        );
        assert!(tokens.contains(config["users"][0]["user"]["token"].as_str().unwrap()));
    }

    #[test]
    fn groups_are_quoted() {
        assert_eq!(token_line("t", "u", "g,h"), "t,u,u,\"g,h\"\n");
        assert_eq!(token_line("t", "u", ""), "t,u,u\n");
    }
}

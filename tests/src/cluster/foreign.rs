//! A node that passes for one of another architecture, for a while: its label says so, and the kernel has an interpreter
//! for programs of it. The interpreter executes nothing, so what is really run must be programs of this machine.

use super::Cluster;
use super::error::Result;
use super::namespace::run;
use super::options::NODE_NAME;

/// The architecture: no test needs this machine not to execute its programs.
pub const FOREIGN_ARCHITECTURE: &str = "riscv64";
/// How its programs begin (ELF-64, little endian, executable, `EM_RISCV`), as binfmt_misc is told.
const MAGIC: &str = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xf3\x00";
/// Where the node has the list of interpreters. It is the machine's; that of a recent kernel goes with its last mount, and so
/// with the cluster.
const LIST: &str = "/run/interpreters";

/// The node of a cluster while it passes for another one. Dropped, the node is as it was.
#[derive(Debug)]
pub struct ForeignNode<'a> {
    cluster: &'a Cluster,
}

impl Cluster {
    /// Lets the node pass for one of [`FOREIGN_ARCHITECTURE`].
    ///
    /// # Errors
    /// The kernel has no binfmt_misc, there is no C compiler, or the API server refused the label.
    pub async fn foreign_node(&self) -> Result<ForeignNode<'_>> {
        // From here on, whatever fails is undone.
        let foreign = ForeignNode { cluster: self };
        run(self.node().command("sh", &["-c", &register(self.key())])).await?;
        run(foreign.label(FOREIGN_ARCHITECTURE)).await?;
        Ok(foreign)
    }
}

impl ForeignNode<'_> {
    fn label(&self, architecture: &str) -> std::process::Command {
        let label = format!("kubernetes.io/arch={architecture}");
        self.cluster.command(
            "kubectl",
            &["label", "--overwrite", "node", NODE_NAME, &label],
        )
    }
}

impl Drop for ForeignNode<'_> {
    fn drop(&mut self) {
        let node = self.cluster.node();
        let own = oci::Platform::host().architecture;
        let undo = [
            self.label(&own),
            node.command("sh", &["-c", &unregister(self.cluster.key())]),
        ];
        for mut command in undo {
            let done = command.output();
            // The cluster is broken then, and the tests after this one tell.
            if !done.as_ref().is_ok_and(|output| output.status.success()) {
                eprintln!("the node stays foreign: {done:?}");
            }
        }
    }
}

/// A shell script that registers an interpreter as `name`. As with a real one, its file is opened now (flag F), and it shows
/// that it was started by being ended by a signal, as by an instruction that it does not know.
fn register(name: &str) -> String {
    format!(
        "set -eu; {}\n\
         mkdir -p {LIST}; mount --no-mtab -t binfmt_misc binfmt_misc {LIST}\n\
         echo 'void _start(void) {{ __builtin_trap(); }}' | cc -x c -nostdlib -static -o /run/interpreter -\n\
         printf %s ':{name}:M::{MAGIC}::/run/interpreter:F' >{LIST}/register",
        unregister(name)
    )
}

/// A shell script that removes it, if it is there.
fn unregister(name: &str) -> String {
    format!(
        "if mountpoint -q {LIST}; then [ ! -e {LIST}/{name} ] || echo -1 >{LIST}/{name}; umount {LIST}; fi"
    )
}

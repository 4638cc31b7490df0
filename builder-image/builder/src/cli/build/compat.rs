//! Flags of docker that are here so that scripts run unchanged: those that ask for what is done anyway have no effect, limits
//! that cannot be kept are told of, and what would make another image than was asked for is refused with the reason.

use clap::Args;

use crate::error::Error;

/// Docker's flags without a meaning of their own here.
#[derive(Args, Debug, Default)]
pub(super) struct CompatArgs {
    /// Accepted: nothing is left over after a build
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rm: Option<bool>,
    /// Accepted: nothing is left over after a build
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    force_rm: Option<bool>,
    /// Accepted: the context is not sent anywhere
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    compress: Option<bool>,
    /// Accepted: no signature is asked of base images
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_content_trust: Option<bool>,
    /// Accepted: say COOPERY_LOG=debug for a log of the engine
    #[arg(short = 'D', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    debug: Option<bool>,
    /// Accepted: this program is the builder
    #[arg(long, value_name = "NAME")]
    builder: Option<String>,
    /// Accepted where it is false: attestations are not made yet
    #[arg(long, value_name = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    provenance: Option<String>,
    /// Accepted where it is false: attestations are not made yet
    #[arg(long, value_name = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sbom: Option<String>,
    /// Refused but for types that are disabled: attestations are not made yet
    #[arg(long, value_name = "TYPE")]
    attest: Vec<String>,
    /// Refused: no step gets more rights or the network of the machine
    #[arg(long, value_name = "RIGHT")]
    allow: Vec<String>,
    /// Refused: the isolation of RUN cannot be changed, but see --isolation
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// No effect: RUN has the limits of this process
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// No effect: RUN has the limits of this process
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// No effect: RUN has the limits of this process
    #[arg(short, long, value_name = "COUNT")]
    cpu_shares: Option<String>,
    /// No effect: RUN has the limits of this process
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<String>,
    /// No effect: RUN has the limits of this process
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<String>,
    /// No effect: RUN has the processors of this process
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// No effect: RUN has the memory nodes of this process
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// No effect: RUN is in the control group of this process
    #[arg(long, value_name = "NAME")]
    cgroup_parent: Option<String>,
}

impl CompatArgs {
    /// What is to be told of the flags that have no effect.
    ///
    /// # Errors
    /// When one is refused; the message names the flag and says what to do.
    pub(super) fn check(&self) -> Result<Vec<String>, Error> {
        let attestations = "attestations are not made yet: leave it out";
        let is_off =
            |value: &str| matches!(value, "false" | "0") || value.contains("disabled=true");
        let attest = self.attest.iter().map(|value| ("--attest", value));
        let provenance = self.provenance.iter().map(|value| ("--provenance", value));
        let sbom = self.sbom.iter().map(|value| ("--sbom", value));
        let wanted = attest.chain(provenance).chain(sbom);
        let attested = wanted
            .filter(|(_, value)| !is_off(value))
            .map(|(flag, value)| format!("{flag} {value}: {attestations}"));
        let allowed = self.allow.iter().map(|right| {
            format!("--allow {right}: RUN never gets more rights than its user namespace has, nor the network of the machine")
        });
        let options = self.security_opt.iter().map(|option| {
            format!("--security-opt {option}: RUN is isolated by a user namespace of its own, which cannot be changed")
        });
        if let Some(refused) = attested.chain(allowed).chain(options).next() {
            return Err(Error::Request(refused));
        }
        let limits = [
            ("--memory", &self.memory),
            ("--memory-swap", &self.memory_swap),
            ("--cpu-shares", &self.cpu_shares),
            ("--cpu-period", &self.cpu_period),
            ("--cpu-quota", &self.cpu_quota),
            ("--cpuset-cpus", &self.cpuset_cpus),
            ("--cpuset-mems", &self.cpuset_mems),
            ("--cgroup-parent", &self.cgroup_parent),
        ];
        let given = limits.iter().filter(|(_, value)| value.is_some());
        Ok(given
            .map(|(flag, _)| {
                format!(
                    "{flag} has no effect: RUN has the limits of this process, set them around it"
                )
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        compat: CompatArgs,
        context: String,
    }

    #[test]
    fn scripts_of_docker_run_or_are_told_why_not() {
        for (args, told) in [
            (
                "--rm --force-rm=true --compress -D --disable-content-trust=false .",
                Ok(0),
            ),
            ("--builder default --provenance=false --sbom=false .", Ok(0)),
            ("--attest type=sbom,disabled=true .", Ok(0)),
            (
                "-m 2g --memory-swap -1 --cpu-quota 1 --cpuset-cpus 0,1 .",
                Ok(4),
            ),
            ("--cgroup-parent x -c 512 .", Ok(2)),
            ("--provenance .", Err("--provenance true: attestations")),
            (
                "--provenance=mode=max .",
                Err("--provenance mode=max: attestations"),
            ),
            (
                "--attest type=sbom .",
                Err("--attest type=sbom: attestations"),
            ),
            (
                "--allow security.insecure .",
                Err("--allow security.insecure: RUN never"),
            ),
            (
                "--security-opt seccomp=unconfined .",
                Err("--security-opt seccomp=unconfined"),
            ),
        ] {
            let words = ["build"].into_iter().chain(args.split(' '));
            let parsed = Command::try_parse_from(words).map_err(|e| e.to_string());
            let parsed = parsed.unwrap_or_else(|error| panic!("{args}: {error}"));
            assert_eq!(parsed.context, ".", "{args}");
            match (parsed.compat.check(), told) {
                (Ok(notes), Ok(count)) => assert_eq!(notes.len(), count, "{args}: {notes:?}"),
                (Err(error), Err(start)) => {
                    assert!(
                        error.is_users() && error.to_string().starts_with(start),
                        "{error}"
                    );
                }
                (found, told) => panic!("{args}: {found:?}, not {told:?}"),
            }
        }
    }
}

//! RUN for real: namespaces, overlay mounts and crun on this machine. It has a `main` of its own because entering the
//! user namespace starts the program again before any thread exists. Where that is not possible it says what it leaves
//! out and why.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod attack;
mod bench;
mod isolation;
mod lifetime;
mod mount;
mod step;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use builder::exec::{Entered, enter_user_namespace};

use crate::bench::{Bench, Leftovers, names};

/// Starts this program again in the part `part`, inside the namespaces of the test.
fn start_part(part: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.env(PART, part);
    command
}

/// The part that a process of this program plays; absent in the one that the user started.
const PART: &str = "COOPERY_TEST_PART";

/// The directory that all parts work in.
const WORKSPACE: &str = "COOPERY_TEST_WORKSPACE";

/// Must not be seen by any step.
const SECRET: &str = "COOPERY_TEST_SECRET";

type Test = (&'static str, fn(&Bench));

macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => { &[$((stringify!($name), $module::$name)),*] };
}

const TESTS: &[Test] = tests![
    isolation::files_are_in_the_upper_directory,
    isolation::exit_codes_are_handed_on,
    isolation::nothing_of_the_engine_is_visible,
    isolation::the_surroundings_are_those_of_a_container,
    isolation::ids_are_those_of_the_user,
    isolation::hundreds_of_layers_can_be_stacked,
    lifetime::cancelling_kills_everything,
    lifetime::what_runs_in_the_background_ends_with_the_step,
    lifetime::a_panic_of_the_listener_leaves_nothing,
    isolation::output_comes_line_by_line,
    isolation::a_working_directory_is_made_for_the_user,
    isolation::mount_points_that_a_layer_removed_are_not_left_behind,
    isolation::mount_points_that_lead_elsewhere_are_refused,
    isolation::a_step_without_network_sees_no_interface,
    isolation::root_of_a_step_reaches_nothing_outside,
    attack::calls_into_the_kernel_are_refused,
    attack::the_door_for_32_bit_programs_is_guarded_too,
    attack::files_are_not_opened_by_their_number,
    attack::other_processes_cannot_be_walked,
    attack::other_processes_cannot_be_traced,
    attack::abstract_sockets_of_others_are_out_of_reach,
    attack::processes_of_a_step_are_bounded,
    step::mount_points_are_not_part_of_the_layer,
    step::a_step_is_run_as_its_user,
    step::scripts_and_working_directories_of_a_step,
    mount::a_link_in_a_shared_directory_leads_nowhere_outside,
    mount::a_race_for_a_shared_directory_is_never_won,
    mount::what_is_written_to_files_of_an_image_is_discarded,
    mount::an_agent_is_reached_by_the_user_of_the_step,
    lifetime::several_run_at_once,
    lifetime::killing_the_outermost_process_kills_everything,
    lifetime::exit_codes_pass_through_the_namespaces,
    lifetime::missing_prerequisites_have_names,
];

fn enter(workspace: &Path) -> Entered {
    match enter_user_namespace(workspace) {
        Ok(entered) => entered,
        Err(error) => {
            println!("{error}");
            std::process::exit(1);
        }
    }
}

/// The process that the user started: tells whether the tests can be run, and runs them in a child.
fn supervise() -> i32 {
    let workspace = tempfile::tempdir().unwrap();
    let part = |part: &str| {
        let mut command = start_part(part);
        command.env(WORKSPACE, workspace.path());
        command
    };
    let probe = part("exit 0").output().unwrap();
    if !probe.status.success() {
        let reason = String::from_utf8_lossy(&probe.stdout).into_owned();
        println!(
            "exec: left out {} tests, because of {reason}",
            TESTS.len() + 1
        );
        return i32::from(rustix::process::geteuid().is_root());
    }
    lifetime::running_out_of_memory_is_recognised(workspace.path());
    let status = part("tests")
        .args(std::env::args_os().skip(1))
        .env(SECRET, "s3cr3t")
        .status()
        .unwrap();
    // The owners of what the parts left can be ids of an ordinary user's range.
    let removed = part("clean up").status().unwrap();
    status.code().filter(|_| removed.success()).unwrap_or(1)
}

fn main() {
    let Ok(part) = std::env::var(PART) else {
        std::process::exit(supervise());
    };
    let workspace = PathBuf::from(std::env::var_os(WORKSPACE).unwrap());
    match part.as_str() {
        "tests" => run_tests(&workspace),
        "sleeper" => {
            let bench = Bench::new(&enter(&workspace), &workspace);
            let container = Bench::container("echo ready; sleep 98765");
            let (result, ..) = bench.execute(&container, &|| false, &mut |_, line| {
                println!("{}", String::from_utf8_lossy(line));
            });
            panic!("{result:?}");
        }
        "memory" => {
            let bench = Bench::new(&enter(&workspace), &workspace);
            for script in ["tail /dev/zero; exit $?", "sh -c 'kill -9 $$'; exit $?"] {
                let (result, ..) =
                    bench.execute(&Bench::container(script), &|| false, &mut |_, _| {});
                println!("{result:?}");
            }
        }
        "agent client" => mount::agent_client(),
        "clean up" => {
            enter(&workspace);
            for name in names(&workspace) {
                fs_err::remove_dir_all(workspace.join(name)).unwrap();
            }
        }
        "report on /proc" => {
            enter(Path::new("/proc/nowhere"));
        }
        "report" => {
            enter(&workspace);
        }
        part => {
            let code = part.strip_prefix("exit ").unwrap().parse().unwrap();
            enter(&workspace);
            std::process::exit(code);
        }
    }
}

fn run_tests(workspace: &Path) {
    let entered = enter(workspace);
    let bench = Bench::new(&entered, workspace);
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    for (name, test) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let mut before = Leftovers::look(&bench);
        let started = Instant::now();
        test(&bench);
        let elapsed = started.elapsed().as_millis();
        let after = Leftovers::look(&bench);
        // Somebody else on the machine may remove what is mounted on; nothing can be added but by us.
        before.mounts.retain(|mount| after.mounts.contains(mount));
        assert_eq!(after, before, "{name} left something behind");
        println!("test {name} ... ok ({elapsed} ms)");
    }
}

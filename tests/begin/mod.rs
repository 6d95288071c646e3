//! How a binary of tests begins whose tests make network namespaces.

use libtest_mimic::Arguments;
use waypost::lab;

/// Reads the arguments and goes into a user namespace of its own, which only a process with one thread can. Where it may not, it ends with what to do.
pub fn in_a_user_namespace() -> Arguments {
    let arguments = Arguments::from_args();
    if let Err(error) = lab::enter() {
        eprintln!("{error}");
        std::process::exit(1);
    }
    arguments
}

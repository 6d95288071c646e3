//! The targets of libFuzzer. What they check stands in `checks/`, and is checked by `cargo test --test dns fuzz` as well, without libFuzzer.

#[path = "../../dns/battery.rs"]
pub mod battery;
#[path = "../../dns/both.rs"]
pub mod both;
pub mod checks;

pub use libfuzzer_sys;

/// The folder of the repository.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The entry point of a program for one check.
#[macro_export]
macro_rules! target {
    ($check:ty) => {
        thread_local!(static CHECK: std::cell::RefCell<$check> = std::cell::RefCell::new(<$check as $crate::checks::Check>::new()));

        $crate::libfuzzer_sys::fuzz_target!(|input: &[u8]| {
            CHECK.with_borrow_mut(|check| $crate::checks::Check::check(check, input));
        });
    };
}

//! Whatever strangers send is read or refused.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgrenga_balancer::fuzz::check(data));

#![no_main]
waypost_fuzz::target!(waypost_fuzz::checks::Zones);

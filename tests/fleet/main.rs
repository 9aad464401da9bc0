//! Several relays as one service: the directory in DNS, and an upgrade under traffic.

mod dns;
mod rolling_upgrade;

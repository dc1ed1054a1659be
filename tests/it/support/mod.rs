//! Real services for the tests: PostgreSQL, Mosquitto, proxies that break connections, and the
//! built program itself. Everything runs on loopback, in scratch folders and on ports of its own,
//! and ends with the test process, however that ends.

// Not every binary needs every helper, and a helper need not wait for its second user.
#![allow(dead_code)]

pub mod backlog;
pub mod bridge;
pub mod browser;
pub mod certs;
pub mod clock;
pub mod config;
pub mod connect_proxy;
pub mod dashboards;
pub mod database;
pub mod duplex;
pub mod event;
pub mod expect;
pub mod map_stream;
pub mod mosquitto;
pub mod pgbouncer;
pub mod postgres;
pub mod preload;
pub mod process;
pub mod proxy;
pub mod publisher;
pub mod questions;
pub mod rig;
pub mod scripted_broker;
pub mod scripted_rig;
pub mod slow_database;
pub mod small_disk;
pub mod store;
pub mod subscriber;
pub mod tap;
pub mod traffic;
pub mod wait;
pub mod worst_messages;

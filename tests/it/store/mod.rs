//! The store as a library, on a database of its own: commits, partitions, migrations and views.

mod answers;
mod archive;
mod change_feed;
mod commit;
mod dead_letter_replay;
mod foreign_partitions;
mod journal;
mod maintenance;
mod migrations;
mod partition_locks;
mod partitions;
mod question_plans;
mod questions;
mod rebuild;
mod refused_rows;
mod roles;
mod rollups;
mod share_group_members;
mod stays;
mod sum_marks;
mod views;
mod writer;

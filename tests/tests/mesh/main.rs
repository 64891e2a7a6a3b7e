//! Whole-mesh tests: one runner, one file a theme.

mod answers;
mod bounds;
mod buckets;
mod data;
mod datasets;
mod encrypted;
mod faults;
mod foreign;
mod index;
mod keep_away;
mod keep_buckets;
mod keep_copies;
mod keep_names;
mod keep_s3;
mod keep_state;
mod keep_sweeps;
mod models;
mod modes;
mod person;
mod score;
mod supervision;
mod survive;
mod tables;
mod tidy;
mod watches;
mod wire;

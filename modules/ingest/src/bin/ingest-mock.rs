//! The mock of ingest: context `test`. Files are read as ever; tables are synthetic, so that
//! clients need no database. Datasets of both

fn main() -> std::process::ExitCode {
    brahman_ingest::program::mock()
}

//! The schema, and every change to it since the first.

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

/// Version, what it does, and how. Never changed once released: the database remembers what it was given.
const ALL: [(i64, &str, &str); 4] = [
    (
        1,
        "first",
        include_str!("../../../migrations/sqlite/0001_first.sql"),
    ),
    (
        2,
        "lost orders",
        include_str!("../../../migrations/sqlite/0002_lost_orders.sql"),
    ),
    (
        3,
        "operators",
        include_str!("../../../migrations/sqlite/0003_operators.sql"),
    ),
    (
        4,
        "orders passed",
        include_str!("../../../migrations/sqlite/0004_orders_passed.sql"),
    ),
];

/// Whether a database was given exactly these.
pub(super) async fn is_current(
    executor: impl sqlx::SqliteExecutor<'_>,
) -> Result<bool, sqlx::Error> {
    let given: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version")
            .fetch_all(executor)
            .await?;
    Ok(given
        .into_iter()
        .eq(ALL.into_iter().map(|(version, ..)| version)))
}

pub(super) fn all() -> Migrator {
    Migrator::with_migrations(
        ALL.into_iter()
            .map(|(version, description, sql)| {
                Migration::new(
                    version,
                    description.into(),
                    MigrationType::Simple,
                    sql.into_sql_str(),
                    false,
                )
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::ALL;

    #[test]
    fn every_file_of_the_folder_is_a_migration() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
        let files: BTreeSet<String> = fs::read_dir(folder)
            .expect("the folder")
            .map(|entry| fs::read_to_string(entry.expect("an entry").path()).expect("text"))
            .collect();
        let listed: BTreeSet<String> = ALL.iter().map(|(_, _, sql)| (*sql).to_owned()).collect();
        assert_eq!(files, listed);
        assert!(ALL.is_sorted_by(|(one, ..), (next, ..)| one < next));
    }
}

//! Rows as structs, without the driver's procedural macros: those would compile SQLite a second time for the
//! compiler alone.

/// A struct that is read from a row, each field from the column of its name.
macro_rules! row {
    (struct $name:ident { $($field:ident: $type:ty),+ $(,)? }) => {
        struct $name {
            $($field: $type,)+
        }

        impl sqlx::FromRow<'_, sqlx::sqlite::SqliteRow> for $name {
            fn from_row(row: &sqlx::sqlite::SqliteRow) -> Result<Self, sqlx::Error> {
                Ok(Self {
                    $($field: sqlx::Row::try_get(row, stringify!($field))?,)+
                })
            }
        }
    };
}

pub(super) use row;

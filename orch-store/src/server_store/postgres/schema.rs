//! Makes the tables, and brings those of earlier versions up to date.

use orch_core::store::StoreError;
use tokio_postgres::{Client, Error};

use super::error::{self, Cause};

/// Migrations, from each format to the next. The format of a store is the number of migrations made.
const STEPS: [&str; 3] =
    [include_str!("sql/schema-1.sql"), include_str!("sql/schema-2.sql"), include_str!("sql/schema-3.sql")];

/// Makes `schema` and its tables, or checks those that are there. One process at a time does.
pub(super) async fn prepare(client: &mut Client, schema: &str) -> Result<(), StoreError> {
    let failed = |error| error::statement("preparing the schema", error);
    let encoding: String = one(client.query_one("SHOW server_encoding", &[]).await).map_err(failed)?;
    if encoding != "UTF8" {
        return Err(error::backend("preparing the schema", false, Cause::Encoding(encoding)));
    }
    let known = i32::try_from(STEPS.len()).unwrap_or(i32::MAX);
    let transaction = client.transaction().await.map_err(failed)?;
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('orch schema ' || $1, 0))";
    transaction.execute(lock, &[&schema]).await.map_err(failed)?;
    // A role may use a schema that was made for it without the right to make one.
    let there = "SELECT to_regnamespace($1) IS NOT NULL";
    if !one::<bool>(transaction.query_one(there, &[&schema]).await).map_err(failed)? {
        transaction.batch_execute(&format!("CREATE SCHEMA {schema}")).await.map_err(failed)?;
    }
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1)";
    let tables: i64 = one(transaction.query_one(tables, &[&schema]).await).map_err(failed)?;
    let format = match tables {
        0 => 0,
        _ => one(transaction.query_one("SELECT format FROM meta", &[]).await).map_err(failed)?,
    };
    let done = usize::try_from(format).map_err(|_| error::corrupt(format!("format {format}")))?;
    let Some(steps) = STEPS.get(done..) else { return Err(error::newer_format(schema, format, known)) };
    if steps.is_empty() {
        return Ok(());
    }
    for step in steps {
        transaction.batch_execute(step).await.map_err(failed)?;
    }
    transaction.execute("UPDATE meta SET format = $1", &[&known]).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

fn one<T: tokio_postgres::types::FromSqlOwned>(row: Result<tokio_postgres::Row, Error>) -> Result<T, Error> {
    row?.try_get(0)
}

//! sqlx. It reads libpq's variables; prints one line for each check.

use std::process::ExitCode;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolCopyExt, PgPoolOptions};
use sqlx::{Connection, Error, Executor, PgConnection, PgPool, Row};

const PATIENCE: Duration = Duration::from_secs(120);
const ROWS: usize = 20_000;

type Checked = Result<bool, Error>;

async fn connect() -> Result<PgConnection, Error> {
    PgConnection::connect_with(&PgConnectOptions::new()).await
}

/// Its connections may be on different nodes.
async fn pool(connections: u32) -> Result<PgPool, Error> {
    PgPoolOptions::new().max_connections(connections).connect_with(PgConnectOptions::new()).await
}

async fn simple() -> Checked {
    let mut session = connect().await?;
    let rows = session.fetch_all(sqlx::raw_sql("SELECT 1; SELECT 2")).await?;
    Ok(rows.iter().map(|row| row.get::<i32, _>(0)).eq([1, 2]))
}

async fn named() -> Checked {
    let mut session = connect().await?;
    for number in 0..50 {
        let double: i32 = sqlx::query_scalar("SELECT $1::int * 2").bind(number).fetch_one(&mut session).await?;
        if double != number * 2 {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn unnamed() -> Checked {
    let mut session = connect().await?;
    let ask = sqlx::query_scalar::<_, i32>("SELECT $1::int + 1").bind(41).persistent(false);
    Ok(ask.fetch_one(&mut session).await? == 42)
}

async fn streamed() -> Checked {
    let mut session = connect().await?;
    let mut rows = sqlx::query_scalar::<_, i32>("SELECT i FROM generate_series(1, 10000) i").fetch(&mut session);
    let mut sum = 0_i64;
    while let Some(number) = rows.try_next().await? {
        sum += i64::from(number);
    }
    Ok(sum == 50_005_000)
}

async fn copied() -> Checked {
    let pool = pool(1).await?;
    sqlx::query("CREATE TABLE sqlx_copied (id int PRIMARY KEY, x text)").execute(&pool).await?;
    let mut rows = pool.copy_in_raw("COPY sqlx_copied FROM STDIN").await?;
    for row in 0..ROWS {
        rows.send(format!("{row}\t{}\n", "x".repeat(100)).into_bytes()).await?;
    }
    let copied = rows.finish().await?;
    let mut size = 0;
    {
        let mut chunks =
            pool.copy_out_raw("COPY (SELECT repeat('x', 100) FROM generate_series(1, 20000)) TO STDOUT").await?;
        while let Some(chunk) = chunks.next().await {
            size += chunk?.len();
        }
    }
    sqlx::query("DROP TABLE sqlx_copied").execute(&pool).await?;
    Ok(copied as usize == ROWS && size == ROWS * 101)
}

async fn pooled() -> Checked {
    let pool = pool(4).await?;
    let ask = |number: i32| sqlx::query_scalar::<_, i32>("SELECT $1").bind(number).fetch_one(&pool);
    let answers = futures_util::future::try_join_all((0..100).map(ask)).await?;
    pool.close().await;
    Ok(answers.into_iter().eq(0..100))
}

async fn rolled_back() -> Checked {
    let mut session = connect().await?;
    session.execute("CREATE TABLE sqlx_t (id serial PRIMARY KEY, x text[])").await?;
    for ends in [false, true] {
        let mut transaction = session.begin().await?;
        sqlx::query("INSERT INTO sqlx_t (x) VALUES ($1)").bind(vec!["a", "b"]).execute(&mut *transaction).await?;
        if ends { transaction.commit().await? } else { drop(transaction) }
    }
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlx_t").fetch_one(&mut session).await?;
    session.execute("DROP TABLE sqlx_t").await?;
    Ok(count == 1)
}

async fn failed() -> Checked {
    let mut session = connect().await?;
    let error = sqlx::query("SELECT 1 / $1").bind(0).execute(&mut session).await.expect_err("a division by zero");
    let code = error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "22012");
    session.ping().await?;
    Ok(code)
}

async fn notified() -> Checked {
    let pool = pool(4).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen("sqlx").await?;
    sqlx::query("SELECT pg_notify('sqlx', 'heard')").execute(&pool).await?;
    Ok(listener.recv().await?.payload() == "heard")
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut worst = ExitCode::SUCCESS;
    macro_rules! check {
        ($($name:ident)*) => {$(
            match tokio::time::timeout(PATIENCE, $name()).await {
                Ok(Ok(true)) => println!("ok      sqlx {}", stringify!($name)),
                other => {
                    println!("FAILED  sqlx {}: {other:?}", stringify!($name));
                    worst = ExitCode::FAILURE;
                }
            }
        )*};
    }
    check!(simple named unnamed streamed copied pooled rolled_back failed notified);
    worst
}

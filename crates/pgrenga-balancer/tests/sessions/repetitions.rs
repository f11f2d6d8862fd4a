//! A transaction that came whole in one request and lost a conflict is run again; its client hears of the last run only.

use pgrenga_admin::State;
use pgrenga_balancer::Limits;

use crate::fake::{Fake, LIMITS};
use crate::wire::{Wire, frame};

const UPDATE: &[u8] = b"UPDATE t SET x = 1\0";

fn error(code: &str) -> Vec<u8> {
    frame(b'E', format!("SERROR\0VERROR\0C{code}\0Mcould not serialize access\0\0").as_bytes())
}

fn lost() -> Vec<u8> {
    [error("40001"), ready(b'I')].concat()
}

fn ready(status: u8) -> Vec<u8> {
    frame(b'Z', &[status])
}

async fn session() -> (Fake, Wire, Wire) {
    let fake = Fake::start(1, LIMITS).await;
    let (client, server) = fake.session(0, 1).await;
    (fake, client, server)
}

/// The server is sent these messages.
async fn reached(server: &mut Wire, request: &[u8]) {
    let mut rest = request;
    while !rest.is_empty() {
        let length = 1 + usize::try_from(u32::from_be_bytes(rest[1..5].try_into().unwrap())).unwrap();
        assert_eq!(server.next().await, (rest[0], rest[5..length].to_vec()));
        rest = &rest[length..];
    }
}

async fn kinds(client: &mut Wire) -> String {
    client.until_ready().await.into_iter().map(|(kind, _)| char::from(kind)).collect()
}

#[tokio::test]
async fn a_query_that_lost_a_conflict_is_run_again_and_answered_once() {
    let (_fake, mut client, mut server) = session().await;
    let update = frame(b'Q', UPDATE);
    client.send(&update).await;
    for _ in 0..2 {
        reached(&mut server, &update).await;
        server.send(&lost()).await;
    }
    reached(&mut server, &update).await;
    server.send(&[frame(b'C', b"UPDATE 1\0"), ready(b'I')].concat()).await;
    assert_eq!(kinds(&mut client).await, "CZ");
    // The next one has all its repetitions.
    client.send(&update).await;
    for _ in 0..=LIMITS.max_repetitions {
        reached(&mut server, &update).await;
        server.send(&lost()).await;
    }
    assert_eq!(kinds(&mut client).await, "EZ", "there is an end to it");
}

#[tokio::test]
async fn a_batch_comes_again_whole_and_what_was_withheld_of_it_is_not_heard_twice() {
    let (_fake, mut client, mut server) = session().await;
    let prepare = [frame(b'P', b"s\0UPDATE t SET x = 1\0\0\0"), frame(b'S', b"")].concat();
    client.send(&prepare).await;
    reached(&mut server, &prepare).await;
    server.send(&[frame(b'1', b""), ready(b'I')].concat()).await;
    assert_eq!(kinds(&mut client).await, "1Z");
    let one = [frame(b'B', b"\0s\0\0\0\0\0\0\0"), frame(b'E', b"\0\0\0\0\0")].concat();
    let batch = [&one[..], &one, &frame(b'S', b"")].concat();
    // It comes in two pieces, and so does its answer.
    client.send(&batch[..20]).await;
    client.send(&batch[20..]).await;
    reached(&mut server, &batch).await;
    let done = [frame(b'2', b""), frame(b'C', b"UPDATE 1\0")].concat();
    let changed = frame(b'S', b"TimeZone\0UTC\0");
    let answer = [&done[..], &done, &changed, &lost()].concat();
    server.send(&answer[..9]).await;
    tokio::task::yield_now().await;
    server.send(&answer[9..]).await;
    reached(&mut server, &batch).await;
    server.send(&[&done[..], &done, &ready(b'I')].concat()).await;
    assert_eq!(kinds(&mut client).await, "S2C2CZ", "what concerns the session is heard all the same");
}

/// Whoever asks this and is answered so hears it as it is.
async fn is_heard(client: &mut Wire, server: &mut Wire, request: &[u8], answer: &[u8]) {
    client.send(request).await;
    reached(server, request).await;
    server.send(answer).await;
    let heard = client.until_ready().await;
    let heard: Vec<u8> = heard.iter().flat_map(|(kind, body)| frame(*kind, body)).collect();
    assert_eq!(heard, answer);
}

#[tokio::test]
async fn nothing_is_run_again_that_may_have_been_noticed_or_is_not_rolled_back() {
    let (_fake, mut client, mut server) = session().await;
    let update = frame(b'Q', UPDATE);
    for before in [
        frame(b'D', b"\0\x01\0\0\0\x011"),
        frame(b'N', b"SNOTICE\0Mso\0\0"),
        [error("40001"), frame(b'S', b"pgrenga.commit_seq\x005\0")].concat(),
        error("08007"),
        error("40P01"),
    ] {
        let is_whole = before[0] == b'E';
        let after = if is_whole { ready(b'I') } else { lost() };
        is_heard(&mut client, &mut server, &update, &[before, after].concat()).await;
    }
    for request in [&b"CALL p()\0"[..], b"COMMIT\0", b"BEGIN; UPDATE t SET x = 1; COMMIT\0"] {
        is_heard(&mut client, &mut server, &frame(b'Q', request), &lost()).await;
    }
    let prepares =
        [frame(b'P', b"s\0UPDATE t SET x = 1\0\0\0"), frame(b'B', b"\0s\0\0\0\0\0\0\0"), frame(b'E', b"\0\0\0\0\0")];
    is_heard(&mut client, &mut server, &[&prepares.concat()[..], &frame(b'S', b"")].concat(), &lost()).await;
}

#[tokio::test]
async fn nothing_is_run_again_in_a_transaction_block() {
    let (_fake, mut client, mut server) = session().await;
    let update = frame(b'Q', UPDATE);
    let begun = [frame(b'C', b"BEGIN\0"), ready(b'T')].concat();
    is_heard(&mut client, &mut server, &frame(b'Q', b"BEGIN\0"), &begun).await;
    is_heard(&mut client, &mut server, &update, &[error("40001"), ready(b'E')].concat()).await;
    // A block that ends with an error of its COMMIT is no request of one transaction.
    is_heard(&mut client, &mut server, &update, &lost()).await;
}

#[tokio::test]
async fn who_sends_more_at_once_is_answered_in_order() {
    let (_fake, mut client, mut server) = session().await;
    let (update, select) = (frame(b'Q', UPDATE), frame(b'Q', b"SELECT 1\0"));
    let both = [&update[..], &select].concat();
    client.send(&both).await;
    reached(&mut server, &both).await;
    server.send(&[lost(), frame(b'C', b"SELECT 1\0"), ready(b'I')].concat()).await;
    assert_eq!((kinds(&mut client).await, kinds(&mut client).await), ("EZ".to_owned(), "CZ".to_owned()));
}

#[tokio::test]
async fn a_long_request_is_not_kept() {
    let (_fake, mut client, mut server) = session().await;
    let long = frame(b'Q', format!("UPDATE t SET x = '{}'\0", "x".repeat(100_000)).as_bytes());
    is_heard(&mut client, &mut server, &long, &lost()).await;
    drop(server);
    let fake = Fake::start(1, Limits { max_repetitions: 0, ..LIMITS }).await;
    let (mut client, mut server) = fake.session(0, 1).await;
    is_heard(&mut client, &mut server, &frame(b'Q', UPDATE), &lost()).await;
}

#[tokio::test]
async fn a_server_that_is_lost_after_a_conflict_leaves_no_success_behind() {
    let (fake, mut client, mut server) = session().await;
    client.send(&frame(b'Q', UPDATE)).await;
    server.next().await;
    server.send(&[frame(b'C', b"UPDATE 1\0"), error("40001")].concat()).await;
    fake.set_state(0, State::Detached);
    drop(server);
    let error = client.error().await;
    assert!(error.contains("C08007"), "{error}");
}

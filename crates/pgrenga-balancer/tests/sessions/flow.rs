//! What passes arrives as it was sent, and no faster than it is taken.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::fake::{Fake, LIMITS};
use crate::wire::frame;

/// More than all sockets' buffers on the way together.
const SOCKETS_BYTES_MAX: usize = 40 << 20;
const TOTAL_BYTES: usize = 64 << 20;

#[tokio::test]
async fn messages_arrive_as_they_were_sent_however_they_are_cut() {
    let fake = Fake::start(1, LIMITS).await;
    let (mut client, mut server) = fake.session(0, 1).await;
    let stream = many_messages();
    assert_carried(&mut client.0, &mut server.0, &stream).await;
    assert_carried(&mut server.0, &mut client.0, &stream).await;
}

/// Some of them longer than any buffer.
pub(crate) fn many_messages() -> Vec<u8> {
    let mut random = generator(7);
    let messages: Vec<(u8, Vec<u8>)> = (0..500)
        .map(|_| {
            let length = if random().is_multiple_of(20) { random() % 100_000 } else { random() % 200 };
            (b'a' + u8::try_from(random() % 26).unwrap(), (0..length).map(|byte| byte as u8).collect())
        })
        .collect();
    messages.iter().flat_map(|(kind, body)| frame(*kind, body)).collect()
}

pub(crate) async fn assert_carried<A, B>(from: &mut A, to: &mut B, stream: &[u8])
where
    A: AsyncWrite + Unpin,
    B: AsyncRead + Unpin,
{
    let write = async {
        let (mut rest, mut random) = (stream, generator(3));
        while !rest.is_empty() {
            let (chunk, others) = rest.split_at(rest.len().min(1 + random() as usize % 50_000));
            from.write_all(chunk).await.unwrap();
            rest = others;
        }
        from.flush().await.unwrap();
    };
    let mut got = vec![0; stream.len()];
    let (_, read) = tokio::join!(write, to.read_exact(&mut got));
    read.unwrap();
    assert!(got == stream);
}

#[tokio::test]
async fn who_does_not_read_slows_the_writer_down() {
    let fake = Fake::start(1, LIMITS).await;
    let (mut client, mut server) = fake.session(0, 1).await;
    assert_held_back(&mut server.0, &mut client.0).await;
    assert_held_back(&mut client.0, &mut server.0).await;
}

pub(crate) async fn assert_held_back<A, B>(from: &mut A, to: &mut B)
where
    A: AsyncWrite + Unpin,
    B: AsyncRead + Unpin,
{
    let message = frame(b'd', &vec![0; TOTAL_BYTES]);
    let mut sent = 0;
    while let Ok(bytes) = timeout(Duration::from_secs(1), from.write(&message[sent..])).await {
        sent += bytes.unwrap();
        if sent == message.len() {
            break;
        }
    }
    assert!(sent < SOCKETS_BYTES_MAX, "{sent} bytes were taken that nobody has read");
    // The rest comes through when it is read.
    let write = async {
        from.write_all(&message[sent..]).await.unwrap();
        from.flush().await.unwrap();
    };
    let mut got = vec![0; message.len()];
    let (_, read) = tokio::join!(write, to.read_exact(&mut got));
    read.unwrap();
}

/// Small and always the same.
fn generator(seed: u32) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    }
}

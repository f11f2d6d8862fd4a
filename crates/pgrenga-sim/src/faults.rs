//! What goes wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::sleep;

use crate::machine::Machine;
use crate::network::{Id, Network};
use crate::note;
use crate::trace::Trace;

fn some<T>(choices: &[T]) -> &T {
    &choices[fastrand::usize(..choices.len())]
}

fn moment(ms: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(fastrand::u64(ms))
}

/// One fault. Some last for a while, and go on after this returns.
pub fn strike(machines: &[Machine], network: &Network, trace: &Trace) {
    let machine = some(machines);
    let id = machine.id;
    match fastrand::u8(..100) {
        0..22 => {
            let (actions, whole) = (fastrand::u32(1..40), fastrand::bool());
            note!(trace, "FAULT n{id} dies after {actions} actions, machine {whole}");
            machine.power().fail_after(actions, whole);
        }
        22..30 => {
            note!(trace, "FAULT n{id} server dies");
            machine.postgres.crash();
            machine.restart_postgres();
        }
        30..34 => {
            note!(trace, "FAULT all machines fail");
            machines.iter().for_each(|machine| machine.power().fail_after(fastrand::u32(1..10), true));
        }
        34..60 => cut(machines, network, trace),
        60..70 => {
            let time = moment(50..2500);
            note!(trace, "FAULT n{id} stands still for {time:?}");
            machine.pause(true);
            let machine = machine.clone();
            tokio::task::spawn_local(async move {
                sleep(time).await;
                machine.pause(false);
            });
        }
        70..78 => {
            let ms_max = *some(&[0, 2, 10, 60]);
            note!(trace, "FAULT network takes {ms_max} ms");
            network.set_latency(ms_max);
        }
        78..84 => {
            let ms_max = *some(&[0, 1, 4, 30, 200]);
            note!(trace, "FAULT n{id} disk takes {ms_max} ms");
            machine.platter.set_latency(ms_max);
        }
        84..87 => network.reset_one(),
        87..90 => fill(machines, trace),
        90..95 => machine.postgres.terminate_one(),
        _ => {
            let Some(log) = machine.view().log else { return };
            let to = some(machines).id;
            note!(trace, "FAULT leadership goes to n{to}");
            tokio::task::spawn_local(async move {
                let transfer = log.transfer_leader(pgrenga_log::NodeId(to));
                let _ = tokio::time::timeout(Duration::from_secs(3), transfer).await;
            });
        }
    }
}

/// Takes the room from one or more disks for a while: soon they have no segment left, or not
/// before the room is back.
fn fill(machines: &[Machine], trace: &Trace) {
    let chosen = some(machines).id;
    let all = fastrand::u8(..3) == 0;
    let time = moment(300..6000);
    for machine in machines.iter().filter(|machine| machine.id == chosen || (all && fastrand::u8(..4) != 0)) {
        let room = fastrand::usize(..80 << 10);
        note!(trace, "FAULT n{} disk has room for {room} bytes for {time:?}", machine.id);
        machine.platter.set_room(Some(room));
        let platter = machine.platter.clone();
        tokio::task::spawn_local(async move {
            sleep(time).await;
            platter.set_room(None);
        });
    }
}

/// Cuts links for a while: of one node, between two groups that one node may bridge, in one
/// direction only; or again and again.
fn cut(machines: &[Machine], network: &Network, trace: &Trace) {
    let ids: Vec<Id> = machines.iter().map(|machine| machine.id).collect();
    let group: BTreeSet<Id> = match fastrand::u8(..3) {
        0 => BTreeSet::from([*some(&ids)]),
        _ => ids.iter().copied().filter(|_| fastrand::bool()).collect(),
    };
    let bridge = (fastrand::u8(..4) == 0).then(|| *some(&ids));
    let (there, back) = *some(&[(true, true), (true, true), (true, false), (false, true)]);
    let mut links = BTreeSet::new();
    for &from in &ids {
        for &to in ids.iter().filter(|to| **to != from) {
            let bridged = bridge.is_some_and(|bridge| bridge == from || bridge == to);
            let crosses = group.contains(&from) != group.contains(&to);
            let outward = group.contains(&from);
            if crosses && !bridged && (if outward { there } else { back }) {
                links.insert((from, to));
            }
        }
    }
    let (times, time) = if fastrand::u8(..4) == 0 { (6, moment(20..300)) } else { (1, moment(100..4000)) };
    note!(trace, "FAULT cut {links:?} {times} times for {time:?}");
    let network = network.clone();
    tokio::task::spawn_local(async move {
        for _ in 0..times {
            network.set_cut(links.clone());
            sleep(time).await;
            network.set_cut(BTreeSet::new());
            sleep(time).await;
        }
    });
}

//! The cluster, put together from what its nodes say. Pure.

use std::collections::BTreeSet;

use pgrenga_admin::{Member, NodeView, State};
use pgrenga_writeset::NodeId;

use crate::places::Serving;

/// What one node said about itself, and about who belongs to the cluster.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) view: NodeView,
    pub(super) members: Vec<Member>,
}

/// What is known across rounds.
#[derive(Debug)]
pub(super) struct Picture {
    cluster: String,
    seeds: BTreeSet<String>,
    /// Of the members that were known last.
    urls: BTreeSet<String>,
    /// Which of the clusters with this name. Learned from the first that answers.
    cluster_id: Option<String>,
    gone: BTreeSet<NodeId>,
}

impl Picture {
    pub(super) fn new(cluster: String, seeds: Vec<String>) -> Self {
        let as_url = |seed: String| if seed.contains("://") { seed } else { format!("http://{seed}") };
        Self {
            cluster,
            seeds: seeds.into_iter().map(as_url).collect(),
            urls: BTreeSet::new(),
            cluster_id: None,
            gone: BTreeSet::new(),
        }
    }

    /// Whom to ask.
    pub(super) fn known(&self) -> impl Iterator<Item = &str> {
        self.seeds.union(&self.urls).map(String::as_str)
    }

    /// The nodes that serve, after everybody was asked.
    pub(super) fn update(&mut self, mut answers: Vec<Answer>) -> Vec<Serving> {
        answers.retain(|answer| self.is_ours(&answer.view));
        // A cluster that another one goes on in place of is over, whatever its nodes still believe.
        let former: BTreeSet<String> =
            answers.iter().flat_map(|answer| answer.view.former_cluster_ids.iter().cloned()).collect();
        answers.retain(|answer| !former.contains(&answer.view.cluster_id));
        let known = self.cluster_id.clone().filter(|id| answers.iter().any(|answer| answer.view.cluster_id == *id));
        if let Some(id) = known.or_else(|| best(&answers).map(|answer| answer.view.cluster_id.clone())) {
            answers.retain(|answer| answer.view.cluster_id == id);
            self.cluster_id = Some(id);
        }
        self.gone.clear();
        let Some(Answer { members, .. }) = best(&answers) else { return Vec::new() };
        self.gone.extend(silent(&answers));
        self.urls = members.iter().map(|member| member.admin_url.clone()).collect();
        let serves = |member: &Member| {
            answers.iter().any(|answer| answer.view.id == member.id && answer.view.state == State::Serving)
        };
        let serving = members.iter().filter(|member| serves(member)).filter_map(|member| {
            let address = member.postgres.clone()?;
            Some(Serving { id: member.id, name: member.name.clone(), host: address.host, port: address.port })
        });
        serving.collect()
    }

    /// Nodes that neither answer here nor are heard of by who leads the log, as of the last update.
    pub(super) fn gone(&self) -> &BTreeSet<NodeId> {
        &self.gone
    }

    fn is_ours(&self, view: &NodeView) -> bool {
        let is_ours = view.cluster == self.cluster;
        if !is_ours {
            tracing::debug!(node = %view.name, cluster = %view.cluster, "a node of another cluster answers");
        }
        is_ours
    }
}

/// The answer that knows most of the log, and with it of the members. One that does not serve may be cut off or removed
/// and not know it.
fn best(answers: &[Answer]) -> Option<&Answer> {
    answers.iter().max_by_key(|answer| (answer.view.state == State::Serving, answer.view.committed_seq))
}

/// Who did not answer, and is not heard of by the leader either.
fn silent(answers: &[Answer]) -> impl Iterator<Item = NodeId> {
    let leads = |answer: &&Answer| answer.view.leader == Some(answer.view.id);
    let unheard = answers.iter().filter(leads).flat_map(|answer| &answer.view.silent);
    unheard.filter(|id| answers.iter().all(|answer| answer.view.id != **id)).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pgrenga_admin::PostgresAddress;
    use pgrenga_writeset::Seq;

    use super::*;

    fn member(id: u32) -> Member {
        Member {
            id: NodeId(id),
            name: format!("n{id}"),
            admin_url: format!("http://h{id}:1"),
            postgres: Some(PostgresAddress { host: format!("h{id}"), port: 5432 }),
            peer: String::new(),
            voter: true,
        }
    }

    fn answer(id: u32, state: State, seq: u64, members: impl IntoIterator<Item = u32>) -> Answer {
        let view = NodeView {
            cluster: "shop".to_owned(),
            cluster_id: "a".to_owned(),
            former_cluster_ids: Vec::new(),
            name: format!("n{id}"),
            id: NodeId(id),
            state,
            applied_seq: Seq(seq),
            flushed_seq: Seq(seq),
            committed_seq: Seq(seq),
            leader: None,
            silent: Vec::new(),
            daemon_pid: 1,
            postgres_pid: None,
            removed: Vec::new(),
            verdict_hash: String::new(),
            reason: None,
            counters: BTreeMap::new(),
        };
        Answer { view, members: members.into_iter().map(member).collect() }
    }

    fn picture() -> Picture {
        Picture::new("shop".to_owned(), vec!["h1:1".to_owned()])
    }

    fn ids(serving: &[Serving]) -> Vec<u32> {
        serving.iter().map(|serving| serving.id.0).collect()
    }

    #[test]
    fn one_address_is_enough_to_learn_the_others() {
        let mut picture = picture();
        assert_eq!(ids(&picture.update(vec![answer(1, State::Serving, 5, 1..=3)])), [1]);
        assert_eq!(picture.known().collect::<Vec<_>>(), ["http://h1:1", "http://h2:1", "http://h3:1"]);
        let all = (1..=3).map(|id| answer(id, State::Serving, 5, 1..=3)).collect();
        assert_eq!(ids(&picture.update(all)), [1, 2, 3]);
    }

    #[test]
    fn the_list_survives_a_moment_without_answers() {
        let mut picture = picture();
        picture.update(vec![answer(1, State::Serving, 5, 1..=3)]);
        assert!(picture.update(Vec::new()).is_empty());
        assert_eq!(picture.known().count(), 3);
        assert_eq!(ids(&picture.update(vec![answer(3, State::Serving, 5, 1..=3)])), [3]);
    }

    #[test]
    fn only_those_that_say_so_serve() {
        let states = [State::Detached, State::CatchingUp, State::Joining, State::Witness, State::Serving];
        let answers = states.into_iter().zip(1..).map(|(state, id)| answer(id, state, 5, 1..=5)).collect();
        assert_eq!(ids(&picture().update(answers)), [5]);
    }

    #[test]
    fn who_was_removed_is_out_though_it_does_not_know() {
        let answers = vec![answer(1, State::Serving, 9, [1, 2]), answer(3, State::Serving, 8, 1..=3)];
        assert_eq!(ids(&picture().update(answers)), [1]);
        let cut_off = vec![answer(1, State::Serving, 9, [1, 2]), answer(3, State::CatchingUp, 12, 1..=3)];
        assert_eq!(ids(&picture().update(cut_off)), [1]);
    }

    #[test]
    fn who_is_not_heard_of_by_anybody_is_gone() {
        let mut picture = picture();
        let mut leader = answer(1, State::Serving, 5, 1..=3);
        (leader.view.leader, leader.view.silent) = (Some(NodeId(1)), vec![NodeId(2), NodeId(3)]);
        picture.update(vec![leader.clone(), answer(3, State::Serving, 5, 1..=3)]);
        assert_eq!(picture.gone().iter().collect::<Vec<_>>(), [&NodeId(2)], "3 answers");
        leader.view.leader = Some(NodeId(3));
        picture.update(vec![leader]);
        assert!(picture.gone().is_empty(), "it leads no more");
    }

    #[test]
    fn nodes_of_other_clusters_are_not_believed() {
        let mut stranger = answer(2, State::Serving, 99, 1..=2);
        stranger.view.cluster = "other".to_owned();
        assert_eq!(ids(&picture().update(vec![answer(1, State::Serving, 5, 1..=2), stranger])), [1]);
    }

    #[test]
    fn a_recovered_cluster_takes_the_place_of_the_one_before() {
        let mut picture = picture();
        picture.update(vec![answer(1, State::Serving, 5, 1..=2)]);
        let mut recovered = answer(1, State::Serving, 3, [1]);
        recovered.view.cluster_id = "b".to_owned();
        recovered.view.former_cluster_ids = vec!["a".to_owned()];
        assert_eq!(ids(&picture.update(vec![recovered, answer(2, State::Serving, 5, 1..=2)])), [1]);
        // Once that is known it stays so, as long as anybody of it answers.
        let mut recovered = answer(1, State::CatchingUp, 3, [1]);
        recovered.view.cluster_id = "b".to_owned();
        assert!(picture.update(vec![recovered, answer(2, State::Serving, 5, 1..=2)]).is_empty());
    }
}

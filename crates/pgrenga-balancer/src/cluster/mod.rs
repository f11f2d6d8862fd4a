//! Follows the cluster: which nodes there are and which of them serve, asked of
//! the nodes themselves, several times a second.

mod picture;

use std::sync::Arc;
use std::time::Duration;

use pgrenga_admin::Client;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::places::Places;
use picture::{Answer, Picture};

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_millis(200);
/// With this and a round, a node that hangs is out within a second.
const PATIENCE: Duration = Duration::from_millis(500);

/// Keeps `places` true; never ends. `seeds` are asked always, and whoever the cluster's list of members names.
pub(crate) async fn follow(cluster: String, seeds: Vec<String>, places: Arc<Places>) {
    let client = Client::new().with_timeout(PATIENCE);
    let mut picture = Picture::new(cluster, seeds);
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let mut questions = JoinSet::new();
        for url in picture.known() {
            let (client, url) = (client.clone(), url.to_owned());
            questions.spawn(async move {
                let (view, members) = tokio::try_join!(client.node(&url), client.members(&url)).ok()?;
                Some(Answer { view, members })
            });
        }
        let answers = questions.join_all().await.into_iter().flatten().collect();
        let serving = picture.update(answers);
        places.update(&serving);
        places.abandon(picture.gone());
    }
}

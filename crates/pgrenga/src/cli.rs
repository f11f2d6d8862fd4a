//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const OVERVIEW: &str = "\
Several PostgreSQL servers that all take writes and all hold the same data.

Try it:      pgrenga demo            three nodes on this machine, in the foreground
             pgrenga status          what they are doing
             pgrenga verify          whether they hold the same
             pgrenga bench select    how much more several nodes do than one

Run it:      pgrenga init --config n1.toml                             on the first machine, once
             pgrenga join --config n2.toml --peer n1.example.com:6533  on each other one, once
             pgrenga node --config nX.toml                             on every machine, always
             pgrenga balancer --config balancer.toml                   one address for clients, wherever you like";

const EXIT_CODES: &str = "\
Exit codes: 0 success; 1 failure, with ERROR, DETAIL and HINT on standard error; 2 wrong usage.
'pgrenga verify' has its own: 0 identical, 1 different, 2 could not compare.

The log of a command goes to standard error; PGRENGA_LOG sets its detail (error, warn, info, debug).";

/// Synchronous multi-master replication for stock PostgreSQL.
#[derive(Debug, Parser)]
#[command(version, about, long_about = OVERVIEW, after_long_help = EXIT_CODES, after_help = "See also: pgrenga --help")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster on this machine, in the foreground
    ///
    /// Makes a cluster in DIR, or continues the one that is there, and keeps it running: what dies is started again.
    /// DIR/cluster.json says where everything is. Prints 'ready' once all nodes serve; Ctrl-C stops it cleanly.
    ///
    /// With P the port given: the balancer is at P; node i (1, 2, ..) has its PostgreSQL at P+i, its admin API at P+100+i
    /// and its connections from other nodes at P+200+i.
    Demo(Demo),
    /// Make the first node of a new cluster
    ///
    /// Makes a PostgreSQL data directory with the extension in it. Then start 'pgrenga node'.
    ///
    /// If the data directory that the configuration names is there, with a PostgreSQL 15 that is stopped, it is taken over
    /// with all its data: init says what it will change, and asks first. If something in it cannot be replicated, it
    /// says what, and changes nothing.
    Init(Init),
    /// Make this machine a node of a cluster that runs
    ///
    /// Registers with the cluster and copies its data from the node given, which keeps serving. Then start
    /// 'pgrenga node', which replays what was written since. Repeat it after a failure: it goes on where it was.
    /// With --witness nothing is copied; then start 'pgrenga witness'.
    ///
    /// A password for the donor's PostgreSQL, if it asks for one, comes from PGPASSWORD or PGPASSFILE.
    Join(Join),
    /// Run a node: this daemon and its PostgreSQL
    ///
    /// Runs in the foreground until SIGTERM or SIGINT, which stop PostgreSQL too. A PostgreSQL server that
    /// runs already, because an earlier daemon was killed, is taken over as it is.
    Node(WithConfig),
    /// Run a witness: a daemon without PostgreSQL
    ///
    /// A witness votes and keeps the log, so that two nodes and a witness survive the loss of any one of the three.
    /// Make it with 'pgrenga join --witness'; its configuration has no section 'postgres'. Runs in the foreground until
    /// SIGTERM or SIGINT.
    Witness(WithConfig),
    /// Run a load balancer: one address in front of all nodes
    ///
    /// Clients connect to it as to any PostgreSQL server. Each session goes to the node that serves and has the fewest; nodes
    /// that join, leave, fail or are detached are noticed within a second. It keeps nothing, and knows no passwords: run
    /// as many as you like, where you like. Runs in the foreground until SIGTERM or SIGINT, which end its sessions.
    ///
    /// Three lines of configuration are enough:
    ///
    ///   cluster = "shop"
    ///   listen = "0.0.0.0:6432"
    ///   nodes = ["n1.example.com:6533", "n2.example.com:6533"]
    ///
    /// 'nodes' are admin addresses of some nodes; the others are learned from them. To PostgreSQL all clients come from the
    /// balancer's address: its pg_hba.conf has to let that in, and should trust it no more than the clients.
    #[command(verbatim_doc_comment)]
    Balancer(WithBalancerConfig),
    /// Show what every node of the cluster is doing
    Status(Status),
    /// Let a node take no new sessions, until it is attached
    ///
    /// The node goes on to take part: it applies what the others write, and votes. Sessions that it has may go on; new ones
    /// are turned away (SQLSTATE 57P03), so that they go elsewhere. 'pgrenga status' shows it as detached. That holds
    /// across restarts, until 'pgrenga attach'. The last node that takes sessions cannot be detached.
    Detach(OnNode),
    /// Let a detached node take sessions again
    ///
    /// It serves at once if it has caught up; see max_lag and ready_lag in the configuration for a node that lags.
    Attach(OnNode),
    /// Take a node out of the cluster for good
    ///
    /// Works while writes go on, whether the node runs or is lost. It loses its vote, nobody waits for it any more, and what
    /// it had under way is void. If it runs, it turns sessions away, and its daemon and its PostgreSQL end. Its data stays
    /// where it is and is of no use to the cluster: to have the machine back, empty its directory and 'pgrenga join' it anew.
    ///
    /// Refused if fewer than a majority of the nodes that remain could be reached. Repeat it after a failure.
    Remove(OnNode),
    /// Go on with one node when a majority's disks are lost for good
    ///
    /// Without --force it only reports what this node's log has, to be compared with that of every other node whose disk
    /// is left. With --force this node becomes a cluster of its own: it explains what may be lost, and asks for the cluster's
    /// name. The daemon must be stopped, and those of all other members. Members that come back later are turned away,
    /// and have to join anew.
    Recover(Recover),
    /// Compare what all nodes hold, while writes go on
    ///
    /// Compares definitions and rows of every replicated table on every node at one position in the order of commits, and
    /// names what differs. Exit code 0: identical; 1: different; 2: could not compare.
    Verify(Verify),
    /// Measure how throughput grows with the number of nodes
    ///
    /// Runs clusters of several sizes on this machine, one after the other, each node held to the same share of a core by a
    /// control group (which takes root), and clients on all nodes at once. 'select' reads random rows by primary key;
    /// in 'mixed', one statement in five writes such a row instead. Prints a table, and writes bench-select.json or
    /// bench-mixed.json and plots into DIR. Needs no cluster, and leaves nothing else behind.
    Bench(Bench),
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Which benchmark
    #[arg(value_enum)]
    pub(crate) benchmark: Benchmark,
    /// The sizes to measure; ratios are to one node
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,2,3",
          value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: Vec<u16>,
    /// Where the results go
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,
    /// Seconds that are measured in each run, after a fifth of that to warm up
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub(crate) duration: u16,
    /// How often each size is measured
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) rounds: u16,
    /// Clients on each node [default: 8 for select, 24 for mixed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=80))]
    pub(crate) clients: Option<u16>,
    /// The share of one core that each node gets, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 30, value_parser = clap::value_parser!(u32).range(10..=100))]
    pub(crate) cap: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Benchmark {
    /// Reads by primary key
    Select,
    /// 80 % such reads, 20 % writes
    Mixed,
}

#[derive(Debug, Args)]
pub(crate) struct WithConfig {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct WithBalancerConfig {
    /// The balancer's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Take over a data directory without asking
    #[arg(long)]
    pub(crate) yes: bool,
    /// Only say what taking over a data directory would change
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Go on without the others
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not ask
    #[arg(long, requires = "force")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How many nodes [default: 3, or as many as DIR has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: Option<u16>,
    /// Where the cluster lives [default: /var/lib/pgrenga/demo for root, else ~/.local/share/pgrenga/demo]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The port from which all others follow [default: 6432, or the one that DIR was made with]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=65000))]
    pub(crate) port: Option<u16>,
    /// The sections log, serving, check and settings of every node's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The admin address of a node that serves
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) peer: String,
    /// Become a witness: a member without PostgreSQL
    #[arg(long)]
    pub(crate) witness: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OnNode {
    /// Its name, as 'pgrenga status' shows it
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Which cluster is meant.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The demo cluster in DIR [default: the one in the demo's default directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The cluster of the node with this configuration
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print again every second, until interrupted
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}

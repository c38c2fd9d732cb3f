//! How names are looked up in a cluster: what the C library's resolver is told before the program begins.
//! Rule: it is told by its environment, which a program cannot safely change for itself, so the program is executed once more with it.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// The domains that are tried in turn behind a name (resolv.conf(5)).
const DOMAINS: &str = "LOCALDOMAIN";
/// Further settings, over those of the file.
const OPTIONS: &str = "RES_OPTIONS";
/// A name server of a node that was lost is asked in vain until Kubernetes gives the node up, most of a minute. A question goes to one of the servers by
/// its port number, so waiting for an answer, or asking again by the same port, does not help: asking anew does.
const SOON: &str = "timeout:1 attempts:1";

/// Executes the program again with the settings; returns at once where there is nothing to set, or somebody else did.
pub fn settle() {
    if [DOMAINS, OPTIONS].iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let Some(domains) = std::fs::read_to_string("/etc/resolv.conf").ok().and_then(|file| domains(&file)) else {
        return;
    };
    let again = |program| {
        Command::new(program).args(std::env::args_os().skip(1)).env(DOMAINS, domains).env(OPTIONS, SOON).exec()
    };
    let error = std::env::current_exe().map_or_else(|error| error, again);
    tracing::warn!(%error, "names are looked up as they were: the program could not be executed again");
}

/// The domains of a pod's `resolv.conf`, the cluster's own first: it completes `service.namespace.svc` at once, where the pod's namespace and `svc` are
/// asked in vain before it by default. None outside of a cluster.
fn domains(resolv_conf: &str) -> Option<String> {
    let search = resolv_conf.lines().rev().find_map(|line| line.strip_prefix("search "))?;
    let (_, cluster) = search.split_whitespace().find_map(|domain| domain.split_once(".svc."))?;
    search.split_whitespace().find(|domain| domain.strip_prefix("svc.") == Some(cluster))?;
    let others = search.split_whitespace().filter(|domain| *domain != cluster);
    Some([cluster].into_iter().chain(others).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::domains;

    #[test]
    fn in_a_pod_the_clusters_domain_comes_first_and_no_other_is_lost() {
        let file = "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local example.com\noptions ndots:5\n";
        assert_eq!(
            domains(file).as_deref(),
            Some("cluster.local shop.svc.cluster.local svc.cluster.local example.com")
        );
    }

    #[test]
    fn outside_of_a_cluster_nothing_is_set() {
        for file in ["", "nameserver 10.0.0.1\n", "search example.com\n", "search dev.svc.example.com\n"] {
            assert_eq!(domains(file), None, "{file}");
        }
    }
}

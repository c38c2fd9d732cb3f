//! Talks to the management interface of the broker.
//! Rule: every request is bounded in time and asks only for the columns needed; a figure not in the answer is unknown, never 0.

use std::collections::BTreeMap;
use std::fmt;

use axum::body::Bytes;
use axum::http::{Method, Request, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::users::{Listed, Permission, User};
use crate::database::Account;
use crate::web::{self, Answer, Web};

/// Queues per answer; the interface allows at most 500 (RabbitMQ manual, "HTTP API", pagination).
const PAGE: u32 = 500;

/// User of the management interface.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl From<Account> for Login {
    fn from(account: Account) -> Self {
        Self { user: account.name, password: account.password }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Login({}, password not shown)", self.user)
    }
}

/// One broker's management interface.
#[derive(Clone, Debug)]
pub struct Management<'a> {
    /// The operator's one pooled client.
    pub http: &'a Web,
    /// `http://host:port`, without a path.
    pub url: &'a str,
    /// Who asks.
    pub login: &'a Login,
    /// The virtual host of policies and queues.
    pub virtual_host: &'a str,
}

/// The virtual host every broker begins with.
pub const DEFAULT_VIRTUAL_HOST: &str = "/";

/// A node the cluster knows, running or not.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// `rabbit@host`.
    pub name: String,
    /// Whether it is part of the running cluster.
    #[serde(default)]
    pub running: bool,
    /// Its memory is above the watermark: publishers are blocked.
    #[serde(default)]
    pub mem_alarm: bool,
    /// Its disk is below the limit: publishers are blocked.
    #[serde(default)]
    pub disk_free_alarm: bool,
}

/// A policy, as the interface reads and writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Regular expression over queue names.
    pub pattern: String,
    /// Which kind of thing it is for.
    #[serde(rename = "apply-to")]
    pub apply_to: String,
    /// Of several that match a queue only the highest counts.
    pub priority: i64,
    /// What it sets.
    pub definition: Map<String, Value>,
}

/// A queue. Just after its declaration, and after a restart of a node, figures are missing or 0 for some seconds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Queue {
    /// Its name; the company's symbol.
    pub name: String,
    /// `quorum`, `classic` or `stream`.
    #[serde(rename = "type")]
    pub queue_type: Option<String>,
    /// Messages that wait.
    pub messages_ready: Option<i64>,
    /// Messages a consumer holds.
    pub messages_unacknowledged: Option<i64>,
    /// Attached consumers.
    pub consumers: Option<i64>,
    /// Nodes that have a replica; quorum queues only.
    pub members: Option<Vec<String>>,
    /// Those of them that are running.
    pub online: Option<Vec<String>>,
    /// Members that hold the log and count for a majority; known after [`Management::look_closer`] only.
    #[serde(skip)]
    pub voters: Option<Vec<String>>,
    /// Where its leader is; of a classic queue, where it is.
    pub node: Option<String>,
    /// `running`, or what keeps it from that.
    pub state: Option<String>,
    /// What went through it; absent, or an empty list in place of an object, as long as nothing did (measured on 4.0.5).
    pub message_stats: Option<Value>,
    /// It goes with the connection that declared it.
    pub exclusive: Option<bool>,
}

/// One replica of a quorum queue, as its node sees it.
#[derive(Deserialize)]
struct Replica {
    #[serde(rename = "Node Name")]
    node: String,
    /// `leader` or `follower` of one that runs.
    #[serde(rename = "Raft State", default)]
    state: String,
    /// `voter`, or `promotable` until it has caught up.
    #[serde(rename = "Membership", default)]
    membership: String,
}

/// Why a request gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, no answer in time, an answer cut short, or one of the 5xx: the next pass may succeed.
    Unreachable(String),
    /// Any other answer than success.
    Refused {
        /// HTTP status.
        status: u16,
        /// The broker's words, shortened.
        reason: String,
    },
    /// Success, with a body that is not what the interface of RabbitMQ 3.13 to 4.x sends.
    Unreadable(String),
}

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
    page_count: u32,
}

/// Somebody connected.
#[derive(Clone, Debug, Deserialize)]
pub struct Connection {
    /// As whom; unknown of one that is just being made.
    #[serde(default)]
    pub user: String,
    /// From where.
    #[serde(default)]
    pub peer_host: String,
}

#[derive(Deserialize)]
struct NamedPolicy {
    name: String,
    #[serde(flatten)]
    policy: Policy,
}

impl Management<'_> {
    /// All nodes of the cluster.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        self.get("nodes?columns=name,running,mem_alarm,disk_free_alarm").await
    }

    /// The policies, by name.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn policies(&self) -> Result<BTreeMap<String, Policy>, Failure> {
        let policies: Vec<NamedPolicy> = self.get(&self.of_host("policies", "")).await?;
        Ok(policies.into_iter().map(|named| (named.name, named.policy)).collect())
    }

    /// All users.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn users(&self) -> Result<Vec<Listed>, Failure> {
        self.get("users?columns=name,password_hash,hashing_algorithm").await
    }

    /// What users may do in which virtual host.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn permissions(&self) -> Result<Vec<Permission>, Failure> {
        self.get("permissions?columns=user,vhost,configure,write,read").await
    }

    /// Makes a user, or gives it this password and these tags. It may do nothing yet.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn put_user(&self, user: &User) -> Result<(), Failure> {
        let tags = if user.administrator { "administrator" } else { "" };
        let body = serde_json::json!({"password": user.login.password, "tags": tags});
        self.send(Method::PUT, &format!("users/{}", encode(&user.login.user)), Some(&body)).await?;
        Ok(())
    }

    /// Lets a user do everything in the virtual host.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn permit(&self, user: &str) -> Result<(), Failure> {
        let path = self.of_host("permissions", user);
        let all = serde_json::json!({"configure": ".*", "write": ".*", "read": ".*"});
        self.send(Method::PUT, &path, Some(&all)).await?;
        Ok(())
    }

    /// Who is connected: user and address.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn connections(&self) -> Result<Vec<Connection>, Failure> {
        self.pages("connections", "user,peer_host").await
    }

    /// Takes a user away, and closes its connections. Does nothing when there is none.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn delete_user(&self, name: &str) -> Result<(), Failure> {
        self.delete(&format!("users/{}", encode(name))).await
    }

    /// The queues, by name.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn queues(&self) -> Result<BTreeMap<String, Queue>, Failure> {
        let columns = "name,type,messages_ready,messages_unacknowledged,consumers,members,online,node,exclusive,state,\
                       message_stats.publish_details.rate";
        let queues: Vec<Queue> = self.pages(&self.of_host("queues", ""), columns).await?;
        Ok(queues.into_iter().map(|queue| (queue.name.clone(), queue)).collect())
    }

    /// Makes or replaces a policy.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn put_policy(&self, name: &str, policy: &Policy) -> Result<(), Failure> {
        let path = self.of_host("policies", name);
        self.send(Method::PUT, &path, Some(policy)).await?;
        Ok(())
    }

    /// Takes a policy away. Does nothing when there is none.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn delete_policy(&self, name: &str) -> Result<(), Failure> {
        self.delete(&self.of_host("policies", name)).await
    }

    /// Makes a durable queue whose only argument is its type; any other argument would bring programs that declare the
    /// queue plainly a 406. Does nothing to a queue that exists.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn declare_queue(&self, name: &str, queue_type: &str) -> Result<(), Failure> {
        let path = self.of_host("queues", name);
        let queue = serde_json::json!({
            "durable": true,
            "auto_delete": false,
            "arguments": {wire::queue::TYPE_ARGUMENT: queue_type},
        });
        self.send(Method::PUT, &path, Some(&queue)).await?;
        Ok(())
    }

    /// Whether a message waits in a queue, which its leader is asked for: the figures may be seconds old. It stays where it is.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn has_message(&self, queue: &str) -> Result<bool, Failure> {
        let path = self.of_host("queues", queue) + "/get";
        let one = serde_json::json!({"count": 1, "ackmode": "ack_requeue_true", "encoding": "base64", "truncate": 1});
        let body = self.send(Method::POST, &path, Some(&one)).await?;
        let messages: Vec<Value> =
            serde_json::from_slice(&body).map_err(|error| Failure::Unreadable(format!("answer to get: {error}")))?;
        Ok(!messages.is_empty())
    }

    /// Takes a queue away, with what is in it. Does nothing when there is none.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn delete_queue(&self, name: &str) -> Result<(), Failure> {
        self.delete(&self.of_host("queues", name)).await
    }

    /// Gives a quorum queue a replica on a node. Does nothing when it has one.
    ///
    /// # Errors
    /// See [`Failure`]; while another change of the queue's membership is under way, or the node is joining, [`Failure::Unreachable`].
    pub async fn add_member(&self, queue: &str, node: &str) -> Result<(), Failure> {
        let path = self.of_host("queues/quorum", queue) + "/replicas/add";
        self.send(Method::POST, &path, Some(&serde_json::json!({"node": node}))).await?;
        Ok(())
    }

    /// Takes the replica of a quorum queue on a node away; a leader among them hands over first. Does nothing when there is none.
    ///
    /// # Errors
    /// As [`Self::add_member`].
    pub async fn delete_member(&self, queue: &str, node: &str) -> Result<(), Failure> {
        let path = self.of_host("queues/quorum", queue) + "/replicas/delete";
        self.send(Method::DELETE, &path, Some(&serde_json::json!({"node": node}))).await?;
        Ok(())
    }

    /// Asks the nodes of a quorum queue for its replicas, and corrects what the list said of them.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn look_closer(&self, queue: &mut Queue) -> Result<(), Failure> {
        let replicas: Vec<Replica> = self.get(&(self.of_host("queues/quorum", &queue.name) + "/status")).await?;
        let nodes = |which: &dyn Fn(&Replica) -> bool| {
            Some(replicas.iter().filter(|replica| which(replica)).map(|replica| replica.node.clone()).collect())
        };
        queue.members = nodes(&|_| true);
        queue.online = nodes(&|replica| matches!(replica.state.as_str(), "leader" | "follower"));
        // A broker that does not say it knows no other kind.
        queue.voters = nodes(&|replica| matches!(replica.membership.as_str(), "voter" | ""));
        Ok(())
    }

    /// Path of one thing of the virtual host; with an empty name, of all of that kind.
    fn of_host(&self, kind: &str, name: &str) -> String {
        let all = format!("{kind}/{}", encode(self.virtual_host));
        if name.is_empty() { all } else { format!("{all}/{}", encode(name)) }
    }

    async fn delete(&self, path: &str) -> Result<(), Failure> {
        match self.send(Method::DELETE, path, None::<&()>).await {
            Ok(_) | Err(Failure::Refused { status: 404, .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// All pages of a list.
    async fn pages<T: DeserializeOwned>(&self, path: &str, columns: &str) -> Result<Vec<T>, Failure> {
        let mut items = Vec::new();
        let mut page = 1;
        loop {
            let path = format!("{path}?page={page}&page_size={PAGE}&columns={columns}");
            let answer: Page<T> = self.get(&path).await?;
            items.extend(answer.items);
            if page >= answer.page_count {
                return Ok(items);
            }
            page += 1;
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let body = self.send(Method::GET, path, None::<&()>).await?;
        // First as any JSON: of a queue whose members change the broker may name a column twice (measured on 4.0.5).
        let answer = serde_json::from_slice::<Value>(&body).and_then(serde_json::from_value);
        answer.map_err(|error| {
            let path = path.split('?').next().unwrap_or_default();
            Failure::Unreadable(format!("answer to {path}: {error}"))
        })
    }

    async fn send(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Vec<u8>, Failure> {
        let request = self.request(method, path, body).map_err(Failure::Unreadable)?;
        let Answer { status, body } = self.http.send(request).await.map_err(|failure| match failure {
            web::Failure::Unreachable(reason) => Failure::Unreachable(reason),
            web::Failure::TooLong => Failure::Unreadable("an answer of megabytes".to_owned()),
        })?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let reason: String = String::from_utf8_lossy(&body).chars().take(300).collect();
        match status {
            500.. => Err(Failure::Unreachable(format!("answered {status}: {reason}"))),
            _ => Err(Failure::Refused { status, reason }),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| error.to_string())?;
        let login = STANDARD.encode(format!("{}:{}", self.login.user, self.login.password));
        Request::builder()
            .method(method)
            .uri(format!("{}/api/{path}", self.url.trim_end_matches('/')))
            .header(header::AUTHORIZATION, format!("Basic {login}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body.unwrap_or_default()))
            .map_err(|error| error.to_string())
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986: symbols hold `^`, `=` and `.`, dead-letter queues `/`.
fn encode(text: &str) -> String {
    crate::database::credentials::encode(text)
}

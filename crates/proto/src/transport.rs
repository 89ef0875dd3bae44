//! How a control plane reaches the service `NodeData`: over a connection, or
//! straight, where both live in one process.
//!
//! ```text
//! NodeTransport::Remote ──HTTP/2──► a node elsewhere
//! NodeTransport::Local  ──call────► Seat, which the node of this process took
//! ```
//!
//! Both carry the same messages of the same generated code. A local call only
//! leaves out frames, windows and the tasks that move them. Not for anything
//! that crosses a process: nothing here authenticates.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

type Request = http::Request<Body>;
type Response = http::Response<Body>;
type Served = BoxCloneSyncService<Request, Response, Infallible>;

/// What is at the other end of a way within the process.
#[derive(Clone)]
enum Node {
    Coming,
    Serving(Served),
    Ended,
}

/// A way to one node; cheap to clone.
#[derive(Clone, Debug)]
pub enum NodeTransport {
    Remote(Channel),
    Local(Local),
}

impl From<Channel> for NodeTransport {
    fn from(channel: Channel) -> Self {
        Self::Remote(channel)
    }
}

impl Service<Request> for NodeTransport {
    type Response = Response;
    type Error = tonic::Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response, tonic::Status>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        match self {
            Self::Remote(channel) => channel.poll_ready(cx).map_err(|e| tonic::Status::from_error(Box::new(e))),
            Self::Local(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self {
            Self::Remote(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { answer.await.map_err(|e| tonic::Status::from_error(Box::new(e))) })
            }
            Self::Local(local) => Box::pin(local.clone().call(request)),
        }
    }
}

/// Both sides of the way within a process.
pub fn local() -> (Local, Seat) {
    let (sender, receiver) = watch::channel(Node::Coming);
    let calls = TaskTracker::new();
    (Local { node: receiver, calls: calls.clone() }, Seat { node: sender, calls })
}

/// The calling side.
#[derive(Clone)]
pub struct Local {
    node: watch::Receiver<Node>,
    calls: TaskTracker,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").field("calls", &self.calls.len()).finish_non_exhaustive()
    }
}

impl Local {
    /// Waits while the node is being opened; refused once it has ended.
    async fn call(mut self, request: Request) -> Result<Response, tonic::Status> {
        let token = self.calls.token();
        let service = match self.node.wait_for(|node| !matches!(node, Node::Coming)).await.as_deref() {
            Ok(Node::Serving(service)) => Some(service.clone()),
            _ => None,
        };
        let service = service.ok_or_else(|| tonic::Status::unavailable("the node has ended"))?;
        let Ok(answer) = service.oneshot(request).await;
        Ok(answer.map(|body| Body::new(Counted { body, _token: token })))
    }
}

/// The serving side's place, taken by [`Seat::serve`].
pub struct Seat {
    node: watch::Sender<Node>,
    calls: TaskTracker,
}

impl Seat {
    /// Serves until `stop`, refuses what comes then, and returns when the last
    /// answer was taken or dropped.
    pub async fn serve<S>(self, service: S, stop: impl Future<Output = ()>)
    where
        S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.node.send_replace(Node::Serving(BoxCloneSyncService::new(service)));
        stop.await;
        self.node.send_replace(Node::Ended);
        self.calls.close();
        self.calls.wait().await;
    }
}

/// An answer that counts as under way until it is dropped.
struct Counted {
    body: Body,
    _token: TaskTrackerToken,
}

impl http_body::Body for Counted {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::oneshot;

    fn greets() -> impl Service<
        Request,
        Response = Response,
        Error = Infallible,
        Future = impl Future<Output = Result<Response, Infallible>> + Send,
    > + Clone
    + Send
    + Sync {
        tower::service_fn(|request: Request| async move {
            let mut answer = http::Response::new(Body::new("an answer".to_owned()));
            *answer.headers_mut() = request.headers().clone();
            Ok(answer)
        })
    }

    fn request() -> Request {
        http::Request::builder().header("said", "hello").body(Body::empty()).expect("a request")
    }

    #[tokio::test]
    async fn a_call_waits_for_the_node_and_is_refused_after_it() {
        let (local, seat) = local();
        let mut way = NodeTransport::Local(local);
        let early = tokio::spawn(way.clone().oneshot(request()));
        tokio::task::yield_now().await;
        assert!(!early.is_finished());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(seat.serve(greets(), async move { drop(stopped.await) }));
        let answer = early.await.expect("joins").expect("answers");
        assert_eq!(answer.headers()["said"], "hello");

        // An answer that is still read holds the end up, and a new call is refused meanwhile.
        stop.send(()).expect("it serves");
        let refused = loop {
            match way.call(request()).await {
                Err(refused) => break refused,
                Ok(_) => tokio::task::yield_now().await,
            }
        };
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert!(!serving.is_finished());
        drop(answer);
        tokio::time::timeout(Duration::from_secs(10), serving).await.expect("in time").expect("ends");
        assert_eq!(way.call(request()).await.expect_err("it has ended").code(), tonic::Code::Unavailable);
    }

    #[tokio::test]
    async fn a_node_that_never_came_refuses_what_waits() {
        let (local, seat) = local();
        let early = tokio::spawn(NodeTransport::Local(local).oneshot(request()));
        tokio::task::yield_now().await;
        drop(seat);
        let refused = early.await.expect("joins").expect_err("nobody serves");
        assert_eq!(refused.code(), tonic::Code::Unavailable);
    }
}

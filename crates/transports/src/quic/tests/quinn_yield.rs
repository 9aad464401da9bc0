//! The number of datagrams after which quinn yields, on which the batching of sends relies.

use std::{
    cell::Cell,
    io::{self, IoSliceMut},
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, ready},
    time::Instant,
};

use quinn::{
    AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    congestion::{Controller, ControllerFactory},
    udp::{RecvMeta, Transmit},
};

use super::super::send_batching::PACKETS_PER_POLL;
use super::*;

thread_local! {
    /// The datagrams that were sent in the current poll of a task.
    static SENT: Cell<usize> = const { Cell::new(0) };
}

/// The most datagrams that were sent in one poll of a task.
#[derive(Debug, Default)]
struct MostPerPoll(AtomicUsize);

/// Counts the datagrams of each poll of a task.
#[derive(Debug)]
struct CountingRuntime(Arc<MostPerPoll>);

impl Runtime for CountingRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, mut future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let most = Arc::clone(&self.0);
        TokioRuntime.spawn(Box::pin(poll_fn(move |cx: &mut Context<'_>| {
            SENT.set(0);
            let poll = future.as_mut().poll(cx);
            most.0.fetch_max(SENT.get(), Ordering::Relaxed);
            poll
        })));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(CountingSocket(
            TokioRuntime.wrap_udp_socket(socket)?,
        )))
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// A socket without segmentation offload: each call sends one datagram.
#[derive(Debug)]
struct CountingSocket(Arc<dyn AsyncUdpSocket>);

impl AsyncUdpSocket for CountingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        assert_eq!(transmit.segment_size, None);
        self.0.try_send(transmit)?;
        SENT.set(SENT.get() + 1);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(ready!(self.0.poll_recv(cx, buffers, meta)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn max_receive_segments(&self) -> usize {
        self.0.max_receive_segments()
    }
}

/// A congestion window that never limits what is sent in one poll, whatever is lost.
#[derive(Clone, Debug)]
struct LargeWindow;

impl ControllerFactory for LargeWindow {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(Self)
    }
}

impl Controller for LargeWindow {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        64 * 1024 * 1024
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// Far more than one window.
const BYTES: usize = 4 * 1024 * 1024;
const MAX_TRANSFERS: usize = 20;

/// A change of this number would not break the batching, but double the number of system calls.
#[tokio::test]
async fn quinn_yields_after_the_expected_number_of_datagrams() {
    let mut server = Server::start().await;
    let most = Arc::new(MostPerPoll::default());
    let mut endpoint = quinn::Endpoint::new(
        quinn::EndpointConfig::default(),
        None,
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
        Arc::new(CountingRuntime(Arc::clone(&most))),
    )
    .unwrap();
    let mut config = client_config();
    let mut transport = quinn::TransportConfig::default();
    transport.congestion_controller_factory(Arc::new(LargeWindow));
    config.transport_config(Arc::new(transport));
    endpoint.set_default_client_config(config);

    let connecting = endpoint.connect(server.socket(), "any").unwrap();
    let (ours, connection) = tokio::join!(server.connection(), within(connecting));
    let mut echoing = JoinSet::new();
    echoing.spawn(echo(ours));
    let connection = connection.unwrap();
    // Acknowledgements and pacing may divide the datagrams of a transfer into shorter runs.
    for _ in 0..MAX_TRANSFERS {
        let (mut send, mut receive) = within(connection.open_bi()).await.unwrap();
        let sending = async {
            send.write_all(&vec![7; BYTES]).await.unwrap();
            send.finish().unwrap();
        };
        let exchange = async { tokio::join!(sending, receive.read_to_end(BYTES)) };
        let ((), received) = within(exchange).await;
        assert_eq!(received.unwrap().len(), BYTES);
        if most.0.load(Ordering::Relaxed) >= PACKETS_PER_POLL {
            break;
        }
    }
    assert_eq!(most.0.load(Ordering::Relaxed), PACKETS_PER_POLL);
}

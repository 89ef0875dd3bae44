//! Exec and logs, on the data lane.

use super::lane::{Fruitless, GuestBody};
use super::{CALL_LIMIT, ChannelError, GuestClient, OutputKind, Repeat, bounds, wire};
use futures::Stream;
use std::time::Duration;

type OutputStream = connectrpc::client::ServerStream<GuestBody, wire::__buffa::view::OutputEventView<'static>>;

impl GuestClient {
    /// Starts, or meets the exec of that id: nothing runs twice.
    pub async fn exec_start(&self, request: wire::StartRequest) -> Result<wire::ExecState, ChannelError> {
        let exec = &self.inner.exec;
        let call = || exec.start(request.clone());
        let answer = self.within(&self.inner.data, CALL_LIMIT, Repeat::Yes, call).await?;
        Ok(bounds::exec_state(answer.into_owned()))
    }

    /// Output from `offset`, live to the end; the last item is the exit.
    /// Goes on over reconnects from the offset reached.
    pub fn exec_output(
        &self,
        exec_id: &str,
        offset: u64,
    ) -> impl Stream<Item = Result<wire::OutputEvent, ChannelError>> + Send + use<> {
        let reader = OutputReader {
            client: self.clone(),
            exec_id: exec_id.to_owned(),
            offset,
            stream: None,
            fruitless: Fruitless::default(),
        };
        futures::stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            let next = reader.next().await;
            match reader.client.noted(next) {
                Ok(event) => {
                    let last = matches!(event.event, Some(OutputKind::Exited(_)));
                    Some((Ok(event), (!last).then_some(reader)))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// What the ring holds from `offset`, without waiting.
    pub async fn exec_read(
        &self,
        exec_id: &str,
        offset: u64,
        max_bytes: u32,
    ) -> Result<wire::ReadResponse, ChannelError> {
        let exec = &self.inner.exec;
        let request = wire::ReadRequest { exec_id: exec_id.to_owned(), offset, max_bytes, ..Default::default() };
        let call = || exec.read(request.clone());
        let mut answer = self.within(&self.inner.data, CALL_LIMIT, Repeat::Yes, call).await?.into_owned();
        if let Some(state) = answer.state.take() {
            answer.state = bounds::exec_state(state).into();
        }
        Ok(answer)
    }

    /// Bytes for standard input or the terminal, then perhaps its end. Not
    /// repeated after a cut: the caller would write twice.
    pub async fn exec_input(&self, exec_id: &str, data: Vec<u8>, eof: bool) -> Result<(), ChannelError> {
        let exec = &self.inner.exec;
        let request = wire::InputRequest { exec_id: exec_id.to_owned(), data, eof, ..Default::default() };
        // A process that does not read its input holds this call up.
        let limit = Duration::from_secs(600);
        match self.attempt(&self.inner.data, limit, Repeat::No, || exec.input(request.clone())).await {
            Err(ChannelError::Timeout) => Err(ChannelError::Timeout),
            answer => self.noted(answer).map(drop),
        }
    }

    /// Any signal by number, to the whole process group.
    pub async fn exec_signal(&self, exec_id: &str, signal: i32) -> Result<(), ChannelError> {
        let exec = &self.inner.exec;
        let request = wire::SignalRequest { exec_id: exec_id.to_owned(), signal, ..Default::default() };
        self.within(&self.inner.data, CALL_LIMIT, Repeat::No, || exec.signal(request.clone())).await.map(drop)
    }

    pub async fn exec_resize(&self, exec_id: &str, cols: u32, rows: u32) -> Result<(), ChannelError> {
        let exec = &self.inner.exec;
        let request = wire::ResizeRequest { exec_id: exec_id.to_owned(), cols, rows, ..Default::default() };
        self.within(&self.inner.data, CALL_LIMIT, Repeat::Yes, || exec.resize(request.clone())).await.map(drop)
    }

    pub async fn exec_get(&self, exec_id: &str) -> Result<wire::ExecState, ChannelError> {
        let exec = &self.inner.exec;
        let request = wire::GetRequest { exec_id: exec_id.to_owned(), ..Default::default() };
        let answer = self.within(&self.inner.data, CALL_LIMIT, Repeat::Yes, || exec.get(request.clone())).await?;
        Ok(bounds::exec_state(answer.into_owned()))
    }

    pub async fn exec_list(&self) -> Result<Vec<wire::ExecState>, ChannelError> {
        let exec = &self.inner.exec;
        let call = || exec.list(wire::ListRequest::default());
        let answer = self.within(&self.inner.data, CALL_LIMIT, Repeat::Yes, call).await?.into_owned();
        Ok(answer.execs.into_iter().map(bounds::exec_state).collect())
    }

    /// The main process's lines. A follower is cut with the connection: the
    /// lines have no numbers to go on from, so the caller asks again.
    pub async fn logs(
        &self,
        request: wire::LogsRequest,
    ) -> Result<impl Stream<Item = Result<wire::LogLine, ChannelError>> + Send + use<>, ChannelError> {
        let exec = &self.inner.exec;
        let call = || exec.logs(request.clone());
        let stream = self.within(&self.inner.data, CALL_LIMIT, Repeat::Yes, call).await?;
        let state = (self.clone(), stream);
        Ok(futures::stream::unfold(Some(state), |state| async move {
            let (client, mut stream) = state?;
            match stream.message().await {
                Ok(Some(line)) => Some((Ok(bounds::log_line(line.to_owned_message())), Some((client, stream)))),
                Ok(None) => None,
                Err(error) => Some((client.noted(Err(error.into())), None)),
            }
        }))
    }
}

struct OutputReader {
    client: GuestClient,
    exec_id: String,
    offset: u64,
    stream: Option<OutputStream>,
    fruitless: Fruitless,
}

impl OutputReader {
    async fn next(&mut self) -> Result<wire::OutputEvent, ChannelError> {
        loop {
            let stream = match self.stream.as_mut() {
                Some(stream) => stream,
                None => {
                    let opened = self.open().await?;
                    self.stream.insert(opened)
                }
            };
            match stream.message().await {
                Ok(Some(message)) => {
                    self.fruitless.reset();
                    return self.take(message.to_owned_message());
                }
                Ok(None) => return Err(ChannelError::protocol("output ended without an exit")),
                Err(error) => match ChannelError::from(error) {
                    ChannelError::Gone => {
                        self.stream = None;
                        if let Err(error) = self.fruitless.pause().await {
                            self.client.inner.conduct.note_cuts();
                            return Err(error);
                        }
                    }
                    other => return Err(other),
                },
            }
        }
    }

    async fn open(&self) -> Result<OutputStream, ChannelError> {
        let exec = &self.client.inner.exec;
        let request = wire::OutputRequest { exec_id: self.exec_id.clone(), offset: self.offset, ..Default::default() };
        self.client.within(&self.client.inner.data, CALL_LIMIT, Repeat::Yes, || exec.output(request.clone())).await
    }

    /// Offsets only rise, and without holes that are not called gaps.
    fn take(&mut self, mut event: wire::OutputEvent) -> Result<wire::OutputEvent, ChannelError> {
        match event.event.as_mut() {
            Some(OutputKind::Output(output)) => {
                if output.offset != self.offset || !(1..=2).contains(&output.stream) {
                    return Err(ChannelError::protocol("output out of order"));
                }
                self.offset = self.offset.saturating_add(output.data.len() as u64);
            }
            Some(OutputKind::Gap(gap)) => {
                if gap.from != self.offset || gap.to < gap.from {
                    return Err(ChannelError::protocol("gap out of order"));
                }
                self.offset = gap.to;
            }
            Some(OutputKind::Exited(state)) => **state = bounds::exec_state(std::mem::take(state)),
            None => return Err(ChannelError::protocol("empty output event")),
        }
        Ok(event)
    }
}

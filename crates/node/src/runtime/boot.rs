//! From an assignment to a guest that is ready: named steps, each journaled
//! before it is taken. Whatever an attempt leaves is freed by
//! `Sandbox::free_run`, in reverse, by what the journal says.

use super::failure::{self, BootEnd, Failure};
use super::identity;
use super::laps::Laps;
use super::run::{Run, Signal};
use super::sandbox::{Fault, Sandbox};
use super::secrets::Given;
use super::wish::{Env, Wish};
use crate::admission::{DiskSpace, Place};
use crate::channel::GuestClient;
use crate::engine::{BootRequest, Disk, DiskFormat, Isolation};
use crate::failpoint::step;
use crate::images::{ImageRecord, Progress, PullSpec};
use crate::journal::{DiskRecord, HeldImage, Outcome, Step};
use crate::network::ClaimedNet;
use aether_core::api::failure as code;
use aether_core::{Observed, TenantId};
use std::path::PathBuf;
use std::sync::Arc;

impl Sandbox {
    pub(super) async fn boot(&mut self) -> Result<(), Fault> {
        let wish = self.wish.borrow_and_update().clone();
        let Some(env) = wish.env.clone() else { return Ok(()) };
        self.row.generation = wish.assigned.generation;
        self.row.observed = Observed::Creating;
        self.row.outcome = Outcome::default();
        (self.row.started_at, self.row.stopped_at, self.row.ends) = (None, None, None);
        (self.row.restarts, self.row.guest_event) = (0, 0);
        self.row.boot_id.clear();
        (self.main_ended, self.failing) = (false, None);
        self.row.step = Step::Image;
        step!("boot.note_begin", self.save()).await?;
        let ended = self.attempt(&wish, &env).await;
        self.queue_position = 0;
        match ended {
            Ok(()) => Ok(()),
            Err(BootEnd::Cancelled) => self.undo().await,
            Err(BootEnd::Failed(failure)) => self.fail(failure).await,
        }
    }

    /// Ends a run as failed: nothing stays but a disk that is whole.
    pub(super) async fn fail(&mut self, failure: Failure) -> Result<(), Fault> {
        tracing::info!(agent = %self.agent_id(), code = failure.code, message = %failure.message, "failed");
        // Told in the end also where freeing takes several tries.
        self.failing = Some(failure.clone());
        self.free_run().await?;
        self.failing = None;
        self.row.step = Step::Idle;
        self.row.observed = Observed::Failed;
        self.row.settled = self.row.generation;
        self.row.stopped_at = Some(self.host.clock.now());
        self.row.outcome.error_code = failure.code.to_owned();
        self.row.outcome.error_message = failure.message.chars().take(1000).collect();
        self.drop_unused().await?;
        step!("fail.note", self.save()).await
    }

    async fn attempt(&mut self, wish: &Wish, env: &Env) -> Result<(), BootEnd> {
        let mut laps = Laps::start();
        self.admit(wish)?;
        let device = self.take_image(wish).await?;
        laps.lap("image");
        let secrets = self.take_secrets(wish).await?;
        laps.lap("secrets");
        let place = self.wait_for_turn().await?;
        // Those before it in the queue have taken theirs by now.
        self.check_memory(self.row.memory_mb)?;
        laps.lap("queue");
        let net = self.take_slot(wish).await?;
        laps.lap("slot");
        let disk = self.take_disk(wish).await?;
        laps.lap("disk");
        self.start_vmm(wish, device, disk, &net).await?;
        laps.lap("vmm");
        step!("boot.await_guest", self.wait_for_guest()).await?;
        laps.lap("guest");
        self.give_identity(wish, (env, secrets), &net).await?;
        laps.lap("identity");
        tracing::info!(agent = %self.agent_id(), slot = ?self.row.slot, took_ms = %laps, "booted");
        drop(place);
        // Now, when the guest no longer needs the processor for its boot.
        self.host.spares.refill(wish.assigned.spec.resources.with_defaults().disk_mb);
        Ok(())
    }

    /// What can be refused before anything is touched.
    fn admit(&mut self, wish: &Wish) -> Result<(), BootEnd> {
        let host = &self.host;
        let isolation = host.engine.isolation();
        let trusted = wish.assigned.tenant_id == TenantId::default_tenant();
        if isolation == Isolation::VmEmulated && !trusted && !host.policy.get().allow_emulation {
            return Err(Failure::new(
                code::ISOLATION_REFUSED,
                "This node can only emulate machines, which is no security boundary. Place the agent on a node with \
                 KVM, or let the operator set engine.allow_emulation.",
            )
            .into());
        }
        self.row.isolation = isolation.as_str().to_owned();
        self.row.engine = host.engine.kind().to_owned();
        let space = DiskSpace::of(&host.config.state_dir).map_err(|e| {
            tracing::error!(error = %e, "the state folder's filesystem cannot be asked for its space");
            Failure::new(code::NODE_ERROR, "The node cannot read its disk's free space.")
        })?;
        if !space.above_low_water(host.config.disk_reserve) {
            return Err(Failure::new(
                code::DISK_FULL,
                "The node's disk is nearly full. Free space on it (images, stopped agents), then start the agent.",
            )
            .into());
        }
        let memory_mb = wish.assigned.spec.resources.with_defaults().memory_mb;
        if !host.ledger.promise(&self.row.agent_id, memory_mb) {
            return Err(Failure::new(
                code::NO_CAPACITY,
                format!("The node has {} MB of memory left, and the agent wants {memory_mb}.", host.ledger.free_mb()),
            )
            .into());
        }
        self.row.memory_mb = memory_mb;
        self.check_memory(memory_mb)
    }

    /// What was promised is one thing, what is left another: other programs
    /// use memory too, and a boot must not end what runs.
    fn check_memory(&self, memory_mb: u64) -> Result<(), BootEnd> {
        // Who cannot be asked is no reason to refuse.
        let Ok(memory) = self.host.engine.memory() else { return Ok(()) };
        if memory.has_room_for(needed_mb(memory_mb, self.host.config.memory_overcommit)) {
            return Ok(());
        }
        let message = format!(
            "The node is short of memory: {memory}. The agent wants {memory_mb} MB; start it when there is room."
        );
        Err(Failure::new(code::NO_CAPACITY, message).into())
    }

    /// The image's device, held for this agent.
    async fn take_image(&mut self, wish: &Wish) -> Result<PathBuf, BootEnd> {
        let (host, tenant) = (self.host.clone(), wish.assigned.tenant_id.clone());
        // A disk lies over the image it was made on, whatever the name means now.
        let fixed = self.row.image.clone().filter(|_| self.row.disk.as_ref().is_some_and(|d| d.made));
        let held = match fixed {
            Some(held) => held,
            None => {
                let mut unwanted = self.wish.clone();
                let record = tokio::select! {
                    record = find_image(&host, &tenant, wish) => record?,
                    () = Sandbox::unwanted(&mut unwanted, &self.host) => return Err(BootEnd::Cancelled),
                };
                HeldImage { digest: record.digest, config: record.config }
            }
        };
        // Journaled first: a hold without a row is swept, a row without a
        // hold is held again.
        self.row.image = Some(held.clone());
        step!("boot.note_image", self.host.journal.put(&self.row)).await?;
        let hold = step!("boot.hold_image", async {
            let (host, tenant, digest) = (self.host.clone(), tenant.clone(), held.digest.clone());
            let agent = self.row.agent_id.clone();
            let held = tokio::task::spawn_blocking(move || host.images.hold(&tenant, &digest, &agent)).await;
            Ok::<_, BootEnd>(held.map_err(|_| BootEnd::Cancelled)??)
        })
        .await?;
        Ok(hold.device)
    }

    async fn wait_for_turn(&mut self) -> Result<Place, BootEnd> {
        self.row.step = Step::Queued;
        step!("boot.note_queued", self.host.journal.put(&self.row)).await?;
        let mut place = self.host.queue.enter();
        let mut unwanted = self.wish.clone();
        loop {
            let moved = tokio::select! {
                moved = place.turn_or_move() => moved,
                () = Sandbox::unwanted(&mut unwanted, &self.host) => return Err(BootEnd::Cancelled),
            };
            self.queue_position = moved.unwrap_or(0);
            self.tell();
            if moved.is_none() {
                return Ok(place);
            }
        }
    }

    async fn take_slot(&mut self, wish: &Wish) -> Result<ClaimedNet, BootEnd> {
        let ready = self.host.network.ready_slots();
        let slot = self.host.slots.take(&ready).ok_or_else(|| {
            Failure::new(code::NO_CAPACITY, format!("All {} slots of the node are taken.", self.host.config.slots))
        })?;
        self.row.slot = Some(slot);
        self.row.step = Step::Slot;
        if let Err(e) = step!("boot.note_slot", self.host.journal.put(&self.row)).await {
            // Nothing was claimed yet, so nothing but the number is to be undone.
            self.row.slot = None;
            self.host.slots.free(slot);
            return Err(e.into());
        }
        Ok(step!("boot.claim_slot", self.host.network.claim(slot, wish.assigned.spec.network)).await?)
    }

    /// The agent's own disk from an earlier run, or a new one.
    async fn take_disk(&mut self, wish: &Wish) -> Result<Disk, BootEnd> {
        if let Some(disk) = self.row.usable_disk() {
            return Ok(disk);
        }
        let path = self.host.config.disks_dir().join(format!("{}.disk", self.row.agent_id));
        self.row.disk = Some(DiskRecord { path: path.clone(), made: false, encrypted: false });
        self.row.step = Step::Disk;
        step!("boot.note_disk", self.host.journal.put(&self.row)).await?;
        let disk_mb = wish.assigned.spec.resources.with_defaults().disk_mb;
        let format = step!("boot.make_disk", async {
            // In place of whatever an earlier try left there, this step's own too.
            super::end::remove_file(&path).map_err(|e| {
                tracing::error!(error = %e, path = %path.display(), "a half-made disk cannot be removed");
                Failure::new(code::NODE_ERROR, "The node could not make the agent's disk; its log says why.")
            })?;
            match self.host.spares.take(disk_mb, &path) {
                Some(format) => Ok::<_, BootEnd>(format),
                None => Ok(self.host.engine.make_disk(&path, disk_mb).await?),
            }
        })
        .await?;
        let encrypted = match &format {
            DiskFormat::Raw => false,
            DiskFormat::Qcow2Luks { key } => {
                self.row.secrets.disk_key = Some(key.clone());
                true
            }
        };
        self.row.disk = Some(DiskRecord { path: path.clone(), made: true, encrypted });
        step!("boot.note_disk_made", self.host.journal.put(&self.row)).await?;
        Ok(Disk { path, format })
    }

    async fn start_vmm(
        &mut self,
        wish: &Wish,
        image_device: PathBuf,
        disk: Disk,
        net: &ClaimedNet,
    ) -> Result<(), BootEnd> {
        if !self.still_wanted() {
            return Err(BootEnd::Cancelled);
        }
        let Some(slot) = self.row.slot else { return Err(BootEnd::Cancelled) };
        let resources = wish.assigned.spec.resources.with_defaults();
        let token = identity::new_token(&*self.host.rng);
        self.row.secrets.token = Some(token.clone());
        self.row.step = Step::Vmm;
        step!("boot.note_vmm", self.host.journal.put(&self.row)).await?;
        // Never dropped in the middle: what it starts would have no name yet.
        let request = || {
            let tap = net.tap.as_ref().map(|tap| tap.try_clone()).transpose().map_err(|e| {
                tracing::error!(error = %e, "the tap's descriptor cannot be passed on");
                Failure::new(code::NODE_ERROR, "The node is out of file descriptors.")
            })?;
            Ok::<_, Failure>(BootRequest {
                slot,
                agent_id: self.row.agent_id.clone(),
                vcpus: resources.cpu_count,
                memory_mb: resources.memory_mb,
                image_device: image_device.clone(),
                disk: disk.clone(),
                tap,
                mac: net.guest.mac,
                token: token.clone(),
            })
        };
        let vmm = step!("boot.start_vmm", async { Ok::<_, BootEnd>(self.host.engine.boot(request()?).await?) }).await?;
        self.row.vmm = Some(vmm.identity.clone());
        self.row.step = Step::Guest;
        let client = GuestClient::open(vmm.control_socket.clone(), vmm.data_socket.clone(), token);
        self.run = Some(Run::new(&self.host, Arc::new(vmm), client));
        step!("boot.note_guest", self.host.journal.put(&self.row)).await?;
        Ok(())
    }

    async fn wait_for_guest(&mut self) -> Result<(), BootEnd> {
        let limit = self.host.stretched(self.host.policy.get().boot_timeout);
        let mut unwanted = self.wish.clone();
        let Some(run) = self.run.as_mut() else { return Err(BootEnd::Cancelled) };
        let client = run.client.clone();
        tokio::select! {
            ready = client.wait_ready(limit) => {
                ready.map_err(|e| failure::guest(&e, limit.as_secs()).into())
            }
            signal = run.next() => match signal {
                Signal::Ended(exit) => {
                    Err(failure::died(&exit, code::BOOT_FAILED, "The sandbox ended while booting").into())
                }
                // No other watcher runs yet.
                Signal::Guest(_) | Signal::Health(_) => Err(BootEnd::Cancelled),
            },
            () = Sandbox::unwanted(&mut unwanted, &self.host) => Err(BootEnd::Cancelled),
        }
    }

    async fn give_identity(
        &mut self,
        wish: &Wish,
        (env, secrets): (&Env, Given),
        net: &ClaimedNet,
    ) -> Result<(), BootEnd> {
        let host = self.host.clone();
        let image = self.row.image.as_ref().map(|i| i.config.clone()).unwrap_or_default();
        let token = identity::new_token(&*host.rng);
        let request = identity::request(wish, (env, &secrets), &image, &net.guest, &token, (&*host.clock, &*host.rng))?;
        if !self.still_wanted() {
            return Err(BootEnd::Cancelled);
        }
        self.row.secrets.next_token = Some(token.clone());
        self.row.step = Step::Identify;
        step!("boot.note_identity", host.journal.put(&self.row)).await?;
        let Some(run) = self.run.as_mut() else { return Err(BootEnd::Cancelled) };
        let client = run.client.clone();
        let answer = tokio::select! {
            answer = step!("boot.identify", client.identify(request.clone())) => answer.map_err(|e| failure::guest(&e, 60))?,
            signal = run.next() => return Err(match signal {
                Signal::Ended(exit) => {
                    failure::died(&exit, code::SANDBOX_DIED, "The sandbox ended while it was set up").into()
                }
                Signal::Guest(_) | Signal::Health(_) => BootEnd::Cancelled,
            }),
        };
        if !answer.main_error.is_empty() {
            return Err(Failure::new(code::COMMAND_NOT_STARTED, answer.main_error).into());
        }
        self.row.boot_id = answer.boot_id;
        self.row.secrets.token = Some(token);
        self.row.secrets.next_token = None;
        self.come_up().await
    }

    /// The guest is ready: the run is up from here on.
    pub(super) async fn come_up(&mut self) -> Result<(), BootEnd> {
        self.row.step = Step::Up;
        self.row.observed = Observed::Running;
        self.row.started_at = Some(self.host.clock.now());
        step!("boot.note_up", self.host.journal.put(&self.row)).await?;
        if let Some(run) = self.run.as_mut() {
            run.watch_guest(&self.host, self.row.guest_event, true);
        }
        self.queue_position = 0;
        self.tell();
        tracing::info!(agent = %self.agent_id(), slot = ?self.row.slot, "running");
        Ok(())
    }

    /// A disk that is not whole serves nobody, nor does a hold without a disk
    /// over it.
    pub(super) async fn drop_unused(&mut self) -> Result<(), Fault> {
        if let Some(disk) = &self.row.disk {
            if disk.made {
                return Ok(());
            }
            step!("fail.remove_disk", async { super::end::remove_file(&disk.path) })
                .await
                .map_err(|source| Fault::Remove { what: "a half-made disk", source })?;
        }
        self.row.disk = None;
        if let Some(held) = &self.row.image {
            step!("fail.release_image", async {
                self.host.images.release(&held.digest, &self.row.agent_id);
                Ok::<_, Fault>(())
            })
            .await?;
        }
        self.row.image = None;
        Ok(())
    }
}

/// Who lets more be promised than there is counts on guests that do not use it.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "megabytes over a small factor"
)]
fn needed_mb(memory_mb: u64, overcommit: f64) -> u64 {
    if overcommit > 1.0 { (memory_mb as f64 / overcommit) as u64 } else { memory_mb }
}

/// What is here, else what a registry has.
async fn find_image(host: &super::Host, tenant: &TenantId, wish: &Wish) -> Result<ImageRecord, BootEnd> {
    let assigned = &wish.assigned;
    let wanted = if assigned.image_digest.is_empty() { &assigned.spec.image } else { &assigned.image_digest };
    if let Some(record) = host.images.resolve(tenant, wanted).await? {
        return Ok(record);
    }
    if !assigned.image_digest.is_empty()
        && let Some(record) = host.images.resolve(tenant, &assigned.spec.image).await?
    {
        return Ok(record);
    }
    let spec = PullSpec::parse(&assigned.spec.image)?;
    Ok(host.images.pull(tenant, spec, Progress::none()).await?)
}

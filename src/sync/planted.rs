//! Bugs on purpose: a model's twin runs the real code with one planted, and must fail.
//!
//! A [`Planted`] travels in the configuration of each structure. Outside loom and shuttle it has no size and every question is
//! a constant `false`, so the branches vanish.

/// The bugs there are, each named as what the code then does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A reader does not look at its cell again after pinning.
    ReadSkipsRevalidation,
    /// Compaction moves objects without asking for pins.
    CompactionIgnoresPins,
    /// Compaction frees the source although the cell no longer named it.
    CompactionIgnoresFree,
    /// Compaction moves what it chose before it had a frame backed, without looking again.
    CompactionTrustsPlan,
    /// Whoever answers an alarm looks at what there is to do before silencing it.
    AlarmSilencedLate,
    /// Who waits at a turnstile waits for the turn after the one under way, whatever his ticket says.
    TurnstileForgetsTicket,
    /// Who leads a convoy says that its batch is done before it is.
    ConvoyTellsBeforeWork,
    /// A failed store leaves what the slot held.
    FailedStoreKeepsOlder,
    /// Writeback switches the slot word although the write failed.
    WritebackIgnoresFailure,
    /// `free` returns the slot although a guard holds it.
    FreeIgnoresPins,
    /// A limit is checked and then charged in two steps.
    CheckThenCharge,
    /// A charge that is refused further up is given back in the first of its counters only.
    RollbackForgetsCounter,
    /// Whoever takes the memcgs with excess looks at one before clearing its flag.
    ExcessClearedLate,
    /// A limit is set, and its mark only after the bump that shows them to chargers.
    MarkSetLate,
    /// Who notes what is above its mark goes the way that the charge began with, whoever has that index by now.
    NoticeTrustsStart,
    /// An uncharge takes away what was the most there ever was before its charger has noted it.
    UnchargeSkipsPeak,
    /// A charge that asks no limit does not look whose life it charges.
    ForceSkipsGeneration,
    /// A prepaid object is uncharged and charged again.
    PrepaidChargesAnew,
    /// Reparenting switches the objcg but leaves a stale group index charged.
    UnchargeSkipsGeneration,
    /// A reference to an objcg is taken by id without looking again whether the memcg still has that objcg.
    ObjcgSkipsSecondLook,
    /// Recalling stocks leaves out those that somebody is at.
    RecallSkipsTaken,
    /// A charge is refused although bytes that would do lie in a stock.
    RefusalSkipsRecall,
    /// A stock is settled references first.
    StockDropsReferencesFirst,
    /// Writeback switches the slot word although its record was cancelled.
    WritebackIgnoresCancel,
    /// Writeback switches the slot word before the bytes are on the device.
    WritebackSwitchesEarly,
    /// A load does not look at its slot word again after reading the device.
    LoadSkipsRevalidation,
    /// Who looks for an entry's LRU list does not ask again, once it has the lock, whether the memcg is still the right one.
    LruTrustsFirstLook,
    /// Who goes round a list counts what it has seen itself, and not what others took or rotated meanwhile.
    LapCountsOnlyItself,
    /// A walk writes what it finds in the slots of the entries it picked, whoever owns it by then.
    LaunchTrustsPick,
    /// A second flight is launched for an entry that is in flight.
    LaunchTwice,
    /// Who moves what lives in a segment does not look again, when it marks a slot, whether that still names the place.
    MoveTrustsReverseWord,
    /// Who brings a page into the pool does not look again, under the cluster lock, whether its slot still names the place.
    PromotionSkipsSecondLook,
    /// Freeing a place leaves its owner charged.
    PlaceKeepsCharge,
    /// A cancelled flight leaves its charge for a place where it is.
    CancelKeepsCharge,
    /// A segment that is handed out again has the generation it had.
    SegmentKeepsGeneration,
    /// A batch adds its reverse words to those of its segment as they were before it had the lock.
    CommitTrustsFirstLook,
    /// A segment that is being punched can be had meanwhile.
    PunchLeavesFree,
    /// Who takes the recent reads of a list looks how many there are and then takes them off.
    SwapinsTakenInTwoSteps,
    /// `malloc` does not ask again, once its frames are backed, whether they lie where they may.
    MallocTrustsFirstMask,
    /// A moved object's bytes are counted on its new node only when nothing keeps it, or its objcg, any more.
    MigrationCountsLate,
    /// An entry goes to the LRU list of its object's new home node after the cluster lock was dropped.
    RehomeOutsideTheLock,
    /// The slot word is published before the bytes are written.
    PublishBeforeWrite,
    /// Who removes an object by its handle does not claim it from others who do.
    RemoveSkipsClaim,
    /// Who removes an object by its handle gives the index back without ending its generation.
    RemoveKeepsGeneration,
    /// Stores of wide repeated words in one block do not exclude each other.
    PatternWithoutLock,
    /// A load of a wide repeated word does not look at the block's word again.
    PatternSkipsSecondLook,
    /// A claim stores the cursor it computed although another one has moved it meanwhile.
    CursorStoresBlindly,
    /// A cursor walks the whole tree instead of the subtree it is for.
    CursorLeavesScope,
    /// A claim gives back what it did not use to whoever has the turn by now.
    CursorGivesBackToAnyone,
    /// A registration ends while what it registered is being called.
    RegistrationEndsEarly,
    /// What a late request holds is given back before the device is through with it.
    LateNotAwaited,
    /// Who uses what is in a seat looks whether it is taken and is then counted.
    SeatCountsLate,
    /// Who takes what is in a seat does not wait for those who use it.
    SeatTakenInUse,
    /// Who begins a batch looks whether the device is being drained and is then counted.
    WriterCountsLate,
    /// Who promises bytes looks for room first, and then promises.
    PromiseLooksFirst,
    /// A stall does not hold the memcgs it is counted in.
    StallHoldsNothing,
    /// Who finds a cluster in the directory does not look whether its words are still that cluster's.
    LookupTrustsDirectory,
    /// Who does not find a cluster in the directory without its lock does not look again with it.
    LookupTrustsMiss,
    /// A slot that is emptied leaves its large number of references to the next content.
    TakeKeepsCount,
    /// The links of a cluster are given back without looking whether it has an entry by now.
    TidyTrustsQueue,
    /// Who allocates a slot drops the lock between finding an empty one and taking it.
    ClaimInTwoSteps,
    /// Who takes a page out of the guest range owns its word only afterwards.
    TakeOutOwnsLate,
    /// Who fills a page from its slot gives the word back before it is installed.
    InstallOwnsNothing,
    /// A compressor that lost its page drops the frame, whoever may be reading it.
    FrameDroppedUnderReader,
    /// A compressor that lost its page leaves what it stored.
    LostKeepsSlot,
    /// A compressor that lost a page that does not shrink keeps its charge.
    StiffKeepsCharge,
    /// Who could do nothing with a page that he took from a compressor gives it back to that one, also when it knows that it lost it.
    UntakeIgnoresThrough,
    /// Who throws a page away empties its slot before he owns the word.
    DiscardOwnsLate,
    /// Who throws a page away does not leave the staging place to the compressor that is at it.
    DiscardEndsShadow,
    /// Who throws a page away does not wait for the compressor that reads it where the guest has it.
    DiscardPassesReader,
    /// Pages may be taken out while their region is being unregistered.
    UnregisterLeavesExitOpen,
    /// Who registers memory that is in use passes over pages that somebody owns this moment.
    FindPassesOwned,
    /// Or does not ask what was unmapped since it looked.
    FindBelievesLook,
    /// Who serves a fault believes the kernel at once that a page is of no region.
    FaultBelievesGone,
    /// Who pins a page looks whether it is there, and then counts.
    PinCountsLate,
    /// The first write to a page leaves its copy in the slot.
    WriteKeepsCopy,
    /// The owner of a page does not wake those whose faults were left to him.
    EndForgetsLeft,
    /// A page that had vanished stays charged.
    VanishedStaysCharged,
    /// Who hands a staged page to an heir owns it as one who throws it away, whose compressor gives the frame back at once.
    HeirOwnsAsDropping,
    /// Who follows a removal takes a page that is about to be stored for one that is being thrown away.
    RemovalPassesOver,
    /// Who passes the gate looks whether the range is open, and enters then.
    GateLooksFirst,
    /// Who throws away a page that is out does not ask the gate.
    DiscardIgnoresGate,
    /// A range is opened before its words have followed.
    GateOpensEarly,
    /// Who reads changes of mappings follows them at once, whoever has read others before.
    FollowsOutOfTurn,
    /// A child's fault is served from its parent's slot although a store is moving what is there apart.
    FillSkipsClaim,
    /// A child of a child has its claim from one that somebody may be moving apart.
    HeirSkipsClaim,
    /// A claim that is moved is in no list for a moment.
    MovedClaimUncovered,
    /// A child leaves the list of those that live, and who goes through that is not told that it became shorter.
    BurialUnnoted,
    /// What a removal has left is not held against being taken out.
    HoldForgotten,
    /// Words follow a removal although the kernel has not emptied the range yet.
    RemovalNotAwaited,
    /// Who takes pages out notes it before only.
    LeavesNotedBefore,
    /// Who asks what was written does not look for pages that are leaving or coming in.
    LeavingNotLookedFor,
    /// Who asks what was written does not look for pages that lost their mark and are not mapped.
    LostMarksNotLookedFor,
    /// Who maps such a page does not note it.
    LostMarkNotNoted,
}

/// Which bug, if any, is planted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    #[cfg(any(loom, shuttle))]
    bug: Option<Bug>,
}

impl Planted {
    /// None: production, and the models that must pass.
    pub const NONE: Planted = Planted {
        #[cfg(any(loom, shuttle))]
        bug: None,
    };

    /// This one: for the twin of a model.
    #[cfg(any(loom, shuttle))]
    pub const fn bug(bug: Bug) -> Self {
        Planted { bug: Some(bug) }
    }

    /// Whether `bug` is planted.
    #[inline(always)]
    pub fn is(self, bug: Bug) -> bool {
        #[cfg(any(loom, shuttle))]
        return self.bug == Some(bug);
        #[cfg(not(any(loom, shuttle)))]
        {
            let _ = bug;
            false
        }
    }
}

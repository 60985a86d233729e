"""What only the chief does: hold the directory of the run, keep checkpoints, show the run.

It is made on every rank, since any may become the chief when ranks have been lost.
"""

from pathlib import Path

from app.checkpoints.keeper import Keeper
from app.config import Config
from app.distributed.world import World
from app.load import LoadedData
from app.monitor import logs
from app.monitor.goodput import Goodput
from app.monitor.lenient import Lenient
from app.monitor.options import Monitoring
from app.monitor.progress import Show
from app.monitor.rank_log import RankLog
from app.monitor.reports import place_of
from app.monitor.tensorboard import TensorBoard
from app.monitor.terminal import Terminal
from app.rundir.files import RunFiles
from app.rundir.lock import RunLock
from app.state import TrainState
from app.stop import STOP


class Lead:
    """The chief's part of a run; on other ranks it does nothing.

    Args:
        config, data, state, world, keeper: the run's.
        lock: of its directory; the chief's is held.
        monitoring: how the run is watched.
        joins: this rank comes into a run that goes on, and is alone in a world until then.

    `leads`: whether this rank is the chief; `shows`: what shows the run on this rank, a list that
    may change.
    """

    def __init__(
        self,
        config: Config,
        data: LoadedData,
        state: TrainState,
        world: World,
        keeper: Keeper,
        lock: RunLock,
        monitoring: Monitoring,
        joins: bool,
    ):
        self._config, self._data, self._state = config, data, state
        self._world, self._lock, self._monitoring = world, lock, monitoring
        self._directory = config.run.run_dir or Path()
        self.files = RunFiles(self._directory)
        self.keeper = keeper
        self.leads = world.is_chief and not joins
        self.goodput = Goodput(self.files.goodput if self.leads else None)
        self.shows: list[Show] = [Show(), Show(), RankLog(world)]
        if self.leads:
            self._show()

    @property
    def terminal(self) -> Show:
        """What the user sees."""
        return self.shows[0]

    @property
    def board(self) -> Show:
        """TensorBoard's files."""
        return self.shows[1]

    def land(self, went_back: bool, total_steps: int) -> Keeper | None:
        """The world has become another one, and this rank has perhaps become the chief. Returns
        the keeper of checkpoints, on the chief. `went_back`: to a commit point, so that what was
        shown since then will be shown again."""
        logs.become(self._directory, self._world.rank, self._monitoring.quiet)
        STOP.speaks = self._world.is_chief
        if not self._world.is_chief:
            return None
        if not self.leads:
            self.leads = True
            self._lock.acquire(from_the_dead=True)
            self._show()
            self.goodput.lead(self.files.goodput)
            self.terminal.began(self._state.step, total_steps)
        elif went_back:
            self.board.closed()
            self.shows[1] = self._tensorboard()
        return self.keeper

    def _show(self) -> None:
        self.shows[0] = Terminal(self._config.training.epochs, self._monitoring.quiet)
        self.shows[1] = self._tensorboard()

    def _tensorboard(self) -> Show:
        place = place_of(self._state, len(self._data.splits["train"]))
        about, size, who = self._data.plan.to_json(), self._world.size, self._world.described
        files = self.files.tensorboard
        return Lenient(lambda: TensorBoard(files, self._config, about, size, place, who))

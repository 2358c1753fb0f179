/** What the views of a run share: visible window, time of the replay, followed expert. Listeners hear what changed. */
export class State {
  constructor(latency) {
    this.latency = Math.max(latency, 1);
    this.from = 0;
    this.to = this.latency;
    this.time = 0;
    this.expert = null;
    this.listeners = [];
  }

  listen(listener) {
    this.listeners.push(listener);
  }

  tell(what) {
    for (const listener of this.listeners) listener(what);
  }

  setWindow(from, to) {
    const span = Math.min(this.latency, Math.max(to - from, Math.min(this.latency, 1000)));
    this.from = Math.min(Math.max(0, from), this.latency - span);
    this.to = this.from + span;
    this.tell("window");
  }

  zoom(factor, centre = (this.from + this.to) / 2) {
    this.setWindow(centre - (centre - this.from) * factor, centre + (this.to - centre) * factor);
  }

  pan(share) {
    const by = share * (this.to - this.from);
    this.setWindow(this.from + by, this.to + by);
  }

  setTime(time) {
    this.time = Math.min(Math.max(0, time), this.latency);
    this.tell("time");
  }

  follow(expert) {
    this.expert = expert;
    this.tell("expert");
  }
}

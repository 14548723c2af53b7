/** Keeps the end of a growing text in sight, but only for a reader who is there. */

import { prefersStillness } from "./dom.js";

const NEAR_PIXELS = 48;

export class Follower {
  /** `scroller` scrolls, `content` grows, `jump` is the button that brings a reader back to the end. */
  constructor(scroller, content, jump) {
    Object.assign(this, { scroller, jump, isFollowing: true, last: 0 });
    scroller.addEventListener("scroll", () => this.#moved(), { passive: true });
    jump.addEventListener("click", () => this.follow({ isSmooth: true }));
    this.observer = new ResizeObserver(() => this.#grew());
    this.observer.observe(content);
    this.observer.observe(scroller);
  }

  /** Go to the end, and stay there while it grows. */
  follow({ isSmooth = false } = {}) {
    this.isFollowing = true;
    const behavior = isSmooth && !prefersStillness() ? "smooth" : "instant";
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior });
    this.#show();
  }

  /** A reader who scrolls up stays where they are; one who comes back to the end follows again. */
  #moved() {
    const { scrollTop } = this.scroller;
    if (this.#distance() <= NEAR_PIXELS) this.isFollowing = true;
    else if (scrollTop < this.last) this.isFollowing = false;
    this.last = scrollTop;
    this.#show();
  }

  #grew() {
    if (this.isFollowing) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#show();
  }

  #distance() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight;
  }

  #show() {
    this.jump.hidden = this.isFollowing || this.#distance() <= NEAR_PIXELS;
  }
}

export default {
  props: { seconds: Number },
  template: `<span hidden></span>`,
  mounted() {
    this.beat = () => document.visibilityState === "visible" && this.$emit("beat");
    this.timer = setInterval(this.beat, 1000 * this.seconds);
    document.addEventListener("visibilitychange", this.beat);
  },
  unmounted() {
    clearInterval(this.timer);
    document.removeEventListener("visibilitychange", this.beat);
  },
};

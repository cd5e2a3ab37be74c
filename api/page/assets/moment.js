export default {
  props: { at: String },
  template: `<time :datetime="at" :title="exactly()">{{ when() }}</time>`,
  methods: {
    when() {
      return window.stratamem.when(this.at);
    },
    exactly() {
      return window.stratamem.exactly(this.at);
    },
  },
};

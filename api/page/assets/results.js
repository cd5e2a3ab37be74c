// What a recall found: the text, where it is, and what its score is made of.
export default {
  props: { results: Array },
  template: `
<ol class="results">
  <li v-for="r in results" :key="r.id">
    <header>
      <b>{{ r.score.toFixed(3) }}</b>
      <span class="chip tier" :class="r.tier">{{ r.tier }}</span>
      <span class="chip plain">{{ r.kind }}</span>
      <span v-if="r.by">{{ r.by }}</span>
      <a v-if="r.session" :href="r.session.to">{{ r.session.text }}</a>
      <span class="hint">{{ r.events ? 'event ' + r.events + ' · ' : '' }}{{ r.tokens }} tokens</span>
      <time class="hint" :datetime="r.at" :title="exactly(r.at)">{{ when(r.at) }}</time>
    </header>
    <p class="said">{{ r.text }}</p>
    <p v-if="r.more" class="hint">{{ r.more }}</p>
    <div class="signals"><span v-for="[name, value] in r.signals" :key="name">{{ name }} <b>{{ value }}</b></span></div>
  </li>
</ol>`,
  methods: {
    when: (iso) => window.stratamem.when(iso),
    exactly: (iso) => window.stratamem.exactly(iso),
  },
};

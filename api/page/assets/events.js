// A session's log: a strip with a lane for each author, and under it what was said. The strip leads to the texts.
export default {
  props: { events: Array, lanes: Array, readable: Boolean },
  template: `
<div>
  <ul class="lanes" aria-label="Events by author">
    <li v-for="lane in lanes" :key="lane.name">
      <span class="lane-name">{{ lane.name }}</span>
      <span class="lane">
        <a v-for="e in lane.events" :key="e.seq" :href="'#event-' + e.seq" :class="e.role"
          :style="{ left: 100 * e.place / events.length + '%', width: 'max(4px, calc(' + 100 / events.length + '% - 2px))' }"
          :aria-label="'Event ' + e.seq + ' by ' + lane.name" :title="e.seq + ' · ' + e.role"></a>
      </span>
    </li>
  </ul>
  <ol class="events" ref="list" tabindex="0" aria-label="Events">
    <li v-for="e in events" :key="e.seq" :id="'event-' + e.seq" :class="e.role" tabindex="-1">
      <header>
        <b>{{ e.author }}</b><span class="chip plain">{{ e.role }}</span>
        <span v-if="e.private" class="chip busy">private</span>
        <span v-if="e.redacted" class="chip off">redacted</span>
        <time :datetime="e.at" :title="exactly(e.at)">{{ when(e.at) }}</time>
        <span class="hint">{{ e.seq }} · {{ e.tokens }} tokens</span>
      </header>
      <p class="said">{{ e.content }}</p>
      <p v-if="e.more" class="hint">{{ e.more }}</p>
    </li>
  </ol>
</div>`,
  mounted() {
    this.$refs.list.scrollTop = this.$refs.list.scrollHeight; // the newest are what one comes for
  },
  methods: {
    when: (iso) => window.stratamem.when(iso),
    exactly: (iso) => window.stratamem.exactly(iso),
  },
};

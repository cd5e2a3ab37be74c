// Clusters where they lie, two of their 256 dimensions, and what the chosen one is about.
export default {
  props: { clusters: Array },
  data: () => ({ chosen: 0 }),
  template: `
<div class="clusters">
  <svg viewBox="0 0 100 70" role="group" aria-label="Clusters in two dimensions">
    <g v-for="(c, i) in placed" :key="c.cluster">
      <circle :cx="c.px" :cy="c.py" :r="c.r" :class="{ chosen: i === chosen, private: c.private }" tabindex="0"
        role="button" :aria-label="'Cluster ' + c.cluster + ', ' + c.size + ' segments'" :aria-pressed="i === chosen"
        @click="chosen = i" @keydown.enter="chosen = i" @keydown.space.prevent="chosen = i"></circle>
    </g>
  </svg>
  <div class="about" aria-live="polite" v-if="clusters[chosen]">
    <h3>Cluster {{ clusters[chosen].cluster }}
      <span class="hint">{{ clusters[chosen].size }} segments{{ clusters[chosen].private ? ' · private' : '' }}</span></h3>
    <p v-if="!clusters[chosen].sentences.length" class="hint">{{ clusters[chosen].silence }}</p>
    <ul><li v-for="s in clusters[chosen].sentences" :key="s.seq + s.text">
      <span class="said">{{ s.text }}</span> <span class="hint">event {{ s.seq }}</span></li></ul>
    <p class="hint">Events {{ clusters[chosen].seqs }}</p>
  </div>
</div>`,
  computed: {
    placed() {
      const scale = (values, low, high) => {
        const least = Math.min(...values), most = Math.max(...values);
        return (v) => (most > least ? low + ((v - least) / (most - least)) * (high - low) : (low + high) / 2);
      };
      const x = scale(this.clusters.map((c) => c.x), 8, 92), y = scale(this.clusters.map((c) => c.y), 62, 8);
      const largest = Math.max(...this.clusters.map((c) => c.size), 1);
      return this.clusters.map((c) => ({ ...c, px: x(c.x), py: y(c.y), r: 1.6 + 3.4 * Math.sqrt(c.size / largest) }));
    },
  },
};

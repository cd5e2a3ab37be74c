// How many blocks lie where? A square for each, or for some.
export default {
  props: { tiers: Array, each: Number },
  template: `
<div class="cells">
  <div v-for="t in tiers" :key="t.name" class="cells-tier">
    <span class="share-name">{{ t.name }}</span>
    <span class="cells-map" role="img" :aria-label="t.text"><i v-for="n in Math.ceil(t.blocks / each)" :key="n"
      :class="t.name"></i></span>
    <span class="share-value">{{ t.text }}</span>
  </div>
</div>`,
};

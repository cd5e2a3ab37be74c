export default {
  props: { label: String, columns: Array, rows: Array, empty: String },
  template: `
<div class="rows" role="region" :aria-label="label" :tabindex="rows.length ? 0 : null">
  <p v-if="!rows.length" class="empty">{{ empty }}</p>
  <table v-else>
    <caption class="spoken">{{ label }}</caption>
    <thead><tr>
      <th v-for="c in columns" :key="c.name" scope="col" :class="c.kind">{{ c.label }}</th>
    </tr></thead>
    <tbody><tr v-for="row in rows" :key="row.id">
      <td v-for="c in columns" :key="c.name" :data-label="c.label"
        :class="[c.kind || 'words', { none: nothing(row[c.name]) }]">
        <span v-if="nothing(row[c.name])" class="nothing">{{ c.kind === "actions" ? "" : "–" }}</span>
        <time v-else-if="c.kind === 'time'" :datetime="row[c.name]" :title="exactly(row[c.name])">{{
          when(row[c.name]) }}</time>
        <span v-else-if="c.kind === 'chip'" class="chip" :class="row[c.name].tone">{{ row[c.name].text }}</span>
        <a v-else-if="c.kind === 'link'" :href="row[c.name].to">{{ row[c.name].text }}</a>
        <code v-else-if="c.kind === 'code'">{{ row[c.name] }}</code>
        <span v-else-if="c.kind === 'bar'" class="cell-bar">
          <meter min="0" max="1" :value="row[c.name].part" :aria-label="c.label"></meter>{{ row[c.name].text }}</span>
        <span v-else-if="c.kind === 'actions'" class="actions">
          <button v-for="a in row[c.name]" :key="a.name" type="button" :class="a.tone"
            @click="$emit('act', {id: row.id, name: a.name})">{{ a.label }}</button></span>
        <template v-else>{{ row[c.name] }}</template>
      </td>
    </tr></tbody>
  </table>
</div>`,
  methods: {
    nothing: (value) => value === null || value === undefined || value === "" || value.length === 0,
    when: (iso) => window.stratamem.when(iso),
    exactly: (iso) => window.stratamem.exactly(iso),
  },
};

// A form of the browser's own fields. All that was filled in is sent at once; a local time is sent as a moment.
export default {
  props: { fields: Array, label: String, name: String },
  data() {
    return { values: Object.fromEntries(this.fields.map((f) => [f.name, f.value ?? (f.kind === "checks" ? [] : "")])) };
  },
  template: `
<form class="line" :aria-label="name" @submit.prevent="send">
  <template v-for="f in fields" :key="f.name">
    <fieldset v-if="f.kind === 'checks'"><legend>{{ f.label }}</legend>
      <label v-for="o in f.options" :key="o" class="check">
        <input type="checkbox" :value="o" v-model="values[f.name]">{{ o }}</label></fieldset>
    <label v-else class="field" :class="{ wide: f.wide, whole: f.kind === 'text' }">{{ f.label }}
      <select v-if="f.kind === 'select'" v-model="values[f.name]" :name="f.name">
        <option v-for="o in f.options" :key="o.value" :value="o.value">{{ o.label }}</option></select>
      <textarea v-else-if="f.kind === 'text'" v-model="values[f.name]" :name="f.name" rows="2" :required="f.required"
        :maxlength="f.most" @keydown.enter.exact.prevent="$el.requestSubmit()"></textarea>
      <input v-else v-model="values[f.name]" :name="f.name" :type="f.kind || 'text'" :required="f.required"
        :maxlength="f.most" :min="f.least" :max="f.most" :placeholder="f.example" autocomplete="off" spellcheck="false">
    </label>
  </template>
  <button type="submit" class="primary">{{ label }}</button>
</form>`,
  methods: {
    send() {
      const sent = { ...this.values };
      for (const f of this.fields)
        if (f.kind === "datetime-local" && sent[f.name]) sent[f.name] = new Date(sent[f.name]).toISOString();
      this.$emit("send", sent);
    },
  },
};

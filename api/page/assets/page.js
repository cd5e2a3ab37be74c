// What components share: times in the viewer's own zone.
window.stratamem = {
  when(iso) {
    return iso ? new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }) : "–";
  },
  exactly(iso) {
    return iso ? new Date(iso).toLocaleString(undefined, { dateStyle: "full", timeStyle: "long" }) : "";
  },
};

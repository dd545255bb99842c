import { followAgent } from "./follow.js";
import { pollFragment } from "./fragments.js";

followAgent();
pollFragment("parts", "/fragments/parts", 3000);
